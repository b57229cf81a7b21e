//! What manifests are, what they refer to, and what is none.

#![allow(clippy::unwrap_used)]

use super::*;

fn digest(fill: &str) -> String {
    format!("sha256:{}", fill.repeat(64))
}

fn image(extra: &str) -> String {
    format!(
        r#"{{"schemaVersion":2{extra},"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":2}},
           "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":3}},
                     {{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{}","size":4}}]}}"#,
        digest("a"),
        digest("b"),
        digest("c")
    )
}

#[test]
fn the_type_is_the_bodys_then_the_headers_then_deduced() {
    let typed = image(&format!(r#","mediaType":"{DOCKER_MANIFEST}""#));
    for (body, header, expected) in [
        (typed.as_str(), None, DOCKER_MANIFEST),
        (&typed, Some("application/json"), DOCKER_MANIFEST),
        (
            &image(""),
            Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
            OCI_MANIFEST,
        ),
        (&image(""), Some(DOCKER_MANIFEST), DOCKER_MANIFEST),
        (&image(""), Some("application/octet-stream"), OCI_MANIFEST),
        (&image(""), None, OCI_MANIFEST),
        (r#"{"schemaVersion":2,"manifests":[]}"#, None, OCI_INDEX),
        (
            r#"{"mediaType":"application/vnd.acme.thing+json","x":1}"#,
            None,
            "application/vnd.acme.thing+json",
        ),
    ] {
        assert_eq!(
            Manifest::pushed(body.as_bytes(), header)
                .unwrap()
                .media_type
                .as_str(),
            expected,
            "{body} under {header:?}"
        );
    }
}

#[test]
fn references_and_their_roles() {
    let manifest = Manifest::pushed(image("").as_bytes(), None).unwrap();
    let roles: Vec<(u64, Role)> = manifest
        .references
        .iter()
        .map(|d| (d.size, d.role))
        .collect();
    assert_eq!(
        roles,
        [
            (2, Role::Blob),
            (3, Role::Blob),
            (4, Role::NonDistributable)
        ]
    );

    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":7}},
           {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":8}}],
           "subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":9}}}}"#,
        digest("a"),
        digest("b"),
        digest("c")
    );
    let index = Manifest::pushed(index.as_bytes(), None).unwrap();
    let roles: Vec<(u64, Role)> = index.references.iter().map(|d| (d.size, d.role)).collect();
    assert_eq!(roles, [(7, Role::Manifest), (8, Role::Blob)]);
    assert_eq!(index.subject.unwrap().to_string(), digest("c"));
}

#[test]
fn each_digest_is_referred_to_once_where_it_comes_first() {
    let layer = |fill: &str, size: u64| format!(r#"{{"digest":"{}","size":{size}}}"#, digest(fill));
    let of = |layers: &[String]| {
        let config = layer("d", 1);
        let layers = layers.join(",");
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[{layers}]}}"#
        );
        Manifest::pushed(body.as_bytes(), None)
    };
    let manifest = of(&[
        layer("c", 3),
        layer("a", 4),
        layer("c", 3),
        layer("d", 1),
        layer("b", 5),
        layer("a", 4),
    ])
    .unwrap();
    let order: Vec<(String, u64)> = manifest
        .references
        .iter()
        .map(|known| (known.digest.to_string(), known.size))
        .collect();
    let expected = [("d", 1), ("c", 3), ("a", 4), ("b", 5)];
    assert_eq!(order, expected.map(|(fill, size)| (digest(fill), size)));
    assert_eq!(manifest.config(), manifest.references.first());
    let refused = of(&[layer("a", 4), layer("b", 5), layer("a", 6)]).unwrap_err();
    let said = format!("{} is named twice, with sizes 4 and 6", digest("a"));
    assert_eq!(refused.to_string(), said);
}

#[test]
fn what_is_refused_on_a_push_and_passed_on_in_a_pull() {
    let both = format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[],"layers":[]}}"#);
    let twice = image("").replace(&digest("c"), &digest("b"));
    let listed = format!(
        r#"{{"schemaVersion":2,"manifests":[["{OCI_MANIFEST}","{}",7,null]]}}"#,
        digest("a")
    );
    let conflict = image(&format!(r#","mediaType":"{OCI_INDEX}""#));
    for (body, header) in [
        ("", None),
        ("not json", None),
        ("[]", None),
        ("{}", None),
        ("{}", Some("application/json")),
        (r#"{"a":1}"#, Some("application/x-www-form-urlencoded")),
        (r#"{"mediaType":"no type"}"#, None),
        (
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            Some(DOCKER_SCHEMA_1_SIGNED),
        ),
        (r#"{"mediaType":"a/b","mediaType":"c/d"}"#, None),
        (&listed, None),
        (r#"{"manifests":[{"digest":"sha256:bad","size":1}]}"#, None),
        (
            r#"{"manifests":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-1}]}"#,
            None,
        ),
        (&both, None),
        (&twice, None),
        (&conflict, Some(OCI_MANIFEST)),
    ] {
        assert!(
            Manifest::pushed(body.as_bytes(), header).is_err(),
            "{body} under {header:?} was taken"
        );
        Manifest::pulled(body.as_bytes(), header);
    }
}
