//! What is served to whom: leaves of the authority, or the operator's certificate.

use super::*;

#[test]
fn a_registry_gets_a_leaf_of_its_own_and_everyone_else_ours() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["docker.io", "quay.io", "localhost:5001"]);
    let now = now();
    let roots = tls.ca_pem();
    let ours = ["localhost", "registry.ci", "127.0.0.1", "10.0.0.5"];
    for (host, expected) in [
        ("quay.io", vec!["quay.io"]),
        ("QUAY.io", vec!["quay.io"]),
        ("docker.io", vec!["docker.io"]),
        ("registry-1.docker.io", vec!["registry-1.docker.io"]),
        ("index.docker.io", vec!["index.docker.io"]),
        ("auth.docker.io", vec!["auth.docker.io"]),
        ("localhost", ours.to_vec()),
        ("registry.ci", ours.to_vec()),
        ("127.0.0.1", ours.to_vec()),
        ("10.0.0.5", ours.to_vec()),
        // Permitted, though not configured.
        ("127.0.0.9", [&ours[..], &["127.0.0.9"]].concat()),
        ("::1", [&ours[..], &["::1"]].concat()),
    ] {
        let chain = handshake_at(&tls, &roots, host, now).expect(host);
        assert_eq!(subjects(&chain[0]), set(&expected), "{host}");
        assert_eq!(chain[1..], certificates(&roots)[..], "{host}");
    }
    for host in ["ghcr.io", "cdn.quay.io", "10.0.0.6"] {
        let refused = handshake_at(&tls, &roots, host, now).unwrap_err();
        assert!(
            matches!(refused, rustls::Error::InvalidCertificate(_)),
            "{host}: {refused}"
        );
    }
}

#[test]
fn a_leaf_is_short_lived_and_says_what_it_is_for() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io", "ghcr.io"]);
    let now = now();
    let roots = tls.ca_pem();
    let chain = handshake_at(&tls, &roots, "quay.io", now).unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let (_, ca) = X509Certificate::from_der(&chain[1]).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=standin");
    assert!(!leaf.is_ca());
    assert!(leaf.key_usage().unwrap().unwrap().value.digital_signature());
    assert!(
        leaf.extended_key_usage()
            .unwrap()
            .unwrap()
            .value
            .server_auth
    );
    let end = (now + Duration::hours(24)).unix_timestamp();
    assert_eq!(leaf.validity().not_after.timestamp(), end);
    assert!(leaf.validity().not_before.timestamp() <= (now - Duration::hours(23)).unix_timestamp());
    assert!(leaf.validity().not_before >= ca.validity().not_before);
    let identifier = |certificate: &X509Certificate<'_>| {
        certificate
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                ParsedExtension::SubjectKeyIdentifier(id) if certificate.is_ca() => {
                    Some(id.0.to_vec())
                }
                _ => None,
            })
    };
    assert!(identifier(&leaf).is_some());
    assert_eq!(identifier(&leaf), identifier(&ca));

    let other = handshake_at(&tls, &roots, "ghcr.io", now).unwrap();
    let (_, other) = X509Certificate::from_der(&other[0]).unwrap();
    assert_ne!(leaf.raw_serial(), other.raw_serial());
    assert_ne!(leaf.public_key().raw, other.public_key().raw);
}

#[test]
fn clients_refuse_a_foreign_name_even_from_our_key() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io"]);
    let now = now();
    let Identity::Minted(minted) = &tls.identity else {
        panic!("no authority");
    };
    let attempt = |host: &str| {
        let Leaf { chain, key, .. } = lock(&minted.authority)
            .issue(&[Host::parse(host).unwrap()], now)
            .unwrap();
        let config = minted.settings.server_config(chain, key).unwrap();
        let name = ServerName::try_from(host.to_owned()).unwrap();
        handshake(Arc::new(config), &tls.ca_pem(), name, now)
    };
    for permitted in ["quay.io", "cdn.quay.io", "127.1.2.3"] {
        attempt(permitted).expect(permitted);
    }
    for foreign in ["ghcr.io", "10.0.0.6", "2001:db8::1"] {
        let refused = attempt(foreign).unwrap_err().to_string();
        assert!(refused.contains("NameConstraintViolation"), "{refused}");
    }
}

#[test]
fn a_configuration_is_kept_until_three_quarters_of_its_leaf_are_over() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io"]);
    let start = now();
    let config = |hours| {
        let now = start + Duration::hours(hours);
        tls.server_config_at(Some("quay.io"), LOOPBACK, now)
            .unwrap()
    };
    let first = config(0);
    assert_eq!(first.alpn_protocols, [b"http/1.1"]);
    let dir = TempDir::new().unwrap();
    let both = Tls::open(Options {
        http2: true,
        ..options(&dir, &[])
    });
    let both = both.unwrap().server_config(None, LOOPBACK).unwrap();
    assert_eq!(both.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    assert!(Arc::ptr_eq(&first, &config(17)));
    assert!(!Arc::ptr_eq(&first, &config(19)));
}

#[test]
fn names_and_addresses_that_clients_choose_fill_no_memory() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io"]);
    let Identity::Minted(minted) = &tls.identity else {
        panic!("no authority");
    };
    for n in 0..10_000_u32 {
        let name = format!("n{n}.quay.io");
        tls.server_config(Some(&name), LOOPBACK).unwrap();
    }
    assert_eq!(lock(&minted.configs).len(), 1);
    for n in 0..1000_u32 {
        let [_, _, high, low] = n.to_be_bytes();
        tls.server_config(None, [127, 1, high, low].into()).unwrap();
        tls.server_config(None, [10, 1, high, low].into()).unwrap();
    }
    assert_eq!(lock(&minted.configs).len(), CACHED_CONFIGS);
    assert!(lock(&minted.unnamed).len() <= CACHED_CONFIGS);
}

#[test]
fn an_operators_certificate_is_served_to_everyone() {
    let dir = TempDir::new().unwrap();
    let [certificate, key_file] = ["tls.pem", "tls.key"].map(|name| dir.path().join(name));
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::new(vec!["registry.example".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap()
        .pem();
    // Some keep the key in the same file; it must not be served.
    fs::write(&certificate, format!("{}{pem}", key.serialize_pem())).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let with = || Options {
        certificate: Some((certificate.clone(), key_file.clone())),
        ..options(&dir, &["quay.io"])
    };
    let tls = Tls::open(with()).unwrap();
    assert_eq!(tls.ca_pem(), pem);
    assert_eq!(tls.ca_path(), certificate);
    assert!(!dir.path().join("state").exists());
    for name in [None, Some("quay.io"), Some("registry.example")] {
        let config = tls.server_config(name, LOOPBACK).unwrap();
        let host = ServerName::try_from("registry.example").unwrap();
        let chain = handshake(config, pem.as_bytes(), host, now()).unwrap();
        assert_eq!(chain, certificates(pem.as_bytes()));
    }

    for (file, contents, expected) in [
        (
            &certificate,
            key.serialize_pem(),
            "tls.pem holds no PEM certificate",
        ),
        (&key_file, pem.clone(), "tls.key holds no PEM private key"),
        (
            &key_file,
            KeyPair::generate().unwrap().serialize_pem(),
            "tls.pem does not belong to the key in",
        ),
        (
            &key_file,
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n".to_owned(),
            "tls.key is encrypted",
        ),
    ] {
        let before = fs::read(file).unwrap();
        fs::write(file, contents).unwrap();
        let error = Tls::open(with()).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
        fs::write(file, before).unwrap();
    }
    fs::remove_file(&key_file).unwrap();
    let error = Tls::open(with()).err().unwrap().to_string();
    assert!(
        error.contains("cannot read") && error.contains("tls.key: No such file"),
        "{error}"
    );
}

/// An operator's authority as PEM, and its key; `shape` says what is special about it.
fn operators(
    above: Option<&rcgen::Issuer<'_, KeyPair>>,
    shape: impl FnOnce(&mut CertificateParams),
) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "Corp");
    shape(&mut params);
    let certificate = match above {
        Some(above) => params.signed_by(&key, above),
        None => params.self_signed(&key),
    };
    (certificate.unwrap().pem(), key)
}

#[test]
fn an_operators_authority_signs_in_place_of_ours() {
    let dir = TempDir::new().unwrap();
    let [file, key_file] = ["corp.pem", "corp.key"].map(|name| dir.path().join(name));
    let (root, root_key) = operators(None, |_| {});
    let issuer = rcgen::Issuer::from_ca_cert_pem(&root, root_key).unwrap();
    let (below, key) = operators(Some(&issuer), |params| {
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Corp CI");
    });
    fs::write(&file, format!("{below}{root}")).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let with = || Options {
        authority: Some((file.clone(), key_file.clone())),
        ..options(&dir, &["quay.io"])
    };
    let tls = Tls::open(with()).unwrap();
    assert_eq!(tls.ca_path(), file);
    assert!(!dir.path().join("state").exists(), "nothing is made");
    // A client that trusts the root alone is sent what leads there.
    for host in ["quay.io", "localhost", "127.0.0.1"] {
        let chain = handshake_at(&tls, root.as_bytes(), host, now()).expect(host);
        assert_eq!(chain.len(), 3);
    }
    assert_eq!(tls.ca_pem(), format!("{below}{root}"));
    let place = AuthorityPlace::Given {
        certificate: file.clone(),
        key: key_file.clone(),
    };
    MintedLeaf::new(&place, &["db.ci".to_owned()]).unwrap();

    type Shape = fn(&mut CertificateParams);
    let shapes: [(Shape, &str); 5] = [
        (
            |params| params.is_ca = rcgen::IsCa::ExplicitNoCa,
            "is no certificate of a certificate authority",
        ),
        (
            |params| params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign],
            "may not sign certificates of servers",
        ),
        (
            |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            },
            "may not sign certificates of servers",
        ),
        (
            |params| {
                let only = rcgen::GeneralSubtree::DnsName("corp.example".to_owned());
                params.name_constraints = Some(rcgen::NameConstraints {
                    permitted_subtrees: vec![only],
                    excluded_subtrees: Vec::new(),
                });
            },
            "does not permit localhost, quay.io",
        ),
        (
            |params| params.not_after = now() - Duration::days(1),
            "is valid only from",
        ),
    ];
    for (shape, expected) in shapes {
        let (pem, key) = operators(None, shape);
        fs::write(&file, pem).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        let error = Tls::open(with()).err().unwrap().to_string();
        for fragment in ["corp.pem", expected, "--ca-cert"] {
            assert!(error.contains(fragment), "{error}");
        }
    }
    let stranger = KeyPair::generate().unwrap();
    fs::write(&file, &root).unwrap();
    fs::write(&key_file, stranger.serialize_pem()).unwrap();
    let error = Tls::open(with()).err().unwrap().to_string();
    assert!(error.contains("does not belong to the key in"), "{error}");
}

#[test]
fn names_no_certificate_can_hold_are_refused() {
    let dir = TempDir::new().unwrap();
    for bad in ["", "registry.ci:5000", "*.ci", "a b", "https://registry.ci"] {
        let mut options = options(&dir, &[]);
        options.own_names = vec![bad.to_owned()];
        let error = Tls::open(options).err().unwrap().to_string();
        assert!(
            error.starts_with(&format!("{bad:?} is no DNS name")),
            "{error}"
        );
    }
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_leaf_for_another_server_is_one_that_clients_accept_or_none() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io"]);
    let state = AuthorityPlace::Kept(dir.path().join("state"));
    let mint = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        MintedLeaf::new(&state, &names)
    };
    let [chain, key] = mint(&["mirror.quay.io", "127.0.0.1"])
        .unwrap()
        .write(dir.path())
        .unwrap();
    assert_eq!(chain, dir.path().join("mirror.quay.io.pem"));
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&key), mode(&chain)), (0o600, 0o644));
    let given = |name: &str| {
        let (_, config) =
            super::given(&Settings::new(false).unwrap(), &chain, &key, now()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        handshake(Arc::new(config), &tls.ca_pem(), name, now())
    };
    for name in ["mirror.quay.io", "127.0.0.1"] {
        let chain = given(name).expect(name);
        assert_eq!(subjects(&chain[0]), set(&["mirror.quay.io", "127.0.0.1"]));
    }
    for (names, fragment) in [
        (&["quay.io", "ghcr.io"][..], "--san ghcr.io"),
        (&["10.0.0.9"], "--san 10.0.0.9"),
        (&["a b"], "no DNS name"),
    ] {
        let refused = mint(names).err().unwrap().to_string();
        assert!(refused.contains(fragment), "{refused}");
    }
}

#[test]
fn sessions_are_resumed_by_name_and_by_no_other() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io", "ghcr.io"]);
    let mut trusted = RootCertStore::empty();
    for root in certificates(&tls.ca_pem()) {
        trusted.add(root).unwrap();
    }
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(trusted.clone())
            .with_no_client_auth();
        let config = Arc::new(config);
        let kind = |host: &'static str| {
            let server = tls.server_config(Some(host), LOOPBACK).unwrap();
            let name = ServerName::try_from(host).unwrap();
            let client = ClientConnection::new(config.clone(), name).unwrap();
            let client = shake(client, ServerConnection::new(server).unwrap()).unwrap();
            assert_eq!(client.protocol_version(), Some(version.version));
            client.handshake_kind().unwrap()
        };
        assert_ne!(
            kind("quay.io"),
            rustls::HandshakeKind::Resumed,
            "{version:?}"
        );
        assert_eq!(
            kind("quay.io"),
            rustls::HandshakeKind::Resumed,
            "{version:?}"
        );
        assert_ne!(
            kind("ghcr.io"),
            rustls::HandshakeKind::Resumed,
            "{version:?}"
        );
    }
}

#[test]
fn no_serial_comes_twice() {
    let dir = TempDir::new().unwrap();
    let tls = open(&dir, &["quay.io"]);
    let Identity::Minted(minted) = &tls.identity else {
        panic!("no authority");
    };
    let mut serials = BTreeSet::new();
    for _ in 0..500 {
        let leaf = lock(&minted.authority).issue(&[Host::parse("quay.io").unwrap()], now());
        let leaf = leaf.unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf.chain[0]).unwrap();
        assert!(
            serials.insert(leaf.raw_serial().to_vec()),
            "a serial came twice"
        );
    }
}
