//! The authority on disk: what it permits, and how it is kept, renewed and replaced.

use super::*;

#[test]
fn the_authority_is_constrained_and_its_key_private() {
    let dir = TempDir::new().unwrap();
    let now = now();
    let tls = Tls::open_at(
        options(
            &dir,
            &[
                "docker.io",
                "quay.io:8443",
                "[2001:db8::7]:5000",
                "192.0.2.9",
            ],
        ),
        now,
    )
    .unwrap();

    assert_eq!(tls.ca_path(), dir.path().join("state/ca.pem"));
    assert_eq!(tls.ca_pem(), read(&dir, "ca.pem"));
    let mode = |name: &str| {
        let path = dir.path().join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("state"), 0o700);
    assert_eq!(mode("state/ca.key"), 0o600);
    assert_eq!(mode("state/ca.pem"), 0o644);

    let der = certificates(&tls.ca_pem()).remove(0);
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    assert!(ca.subject().to_string().starts_with("CN=standin CA "));
    assert_eq!(ca.subject(), ca.issuer());
    assert_eq!(
        ca.validity().not_before.timestamp(),
        (now - Duration::hours(24)).unix_timestamp()
    );
    assert_eq!(
        ca.validity().not_after.timestamp(),
        (now + Duration::days(30)).unix_timestamp()
    );
    let basic = ca.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca);
    assert_eq!(basic.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    let constraints = ca.name_constraints().unwrap().unwrap();
    assert!(constraints.critical);
    assert!(constraints.value.excluded_subtrees.is_none());
    let permitted = constraints.value.permitted_subtrees.as_ref().unwrap();
    assert_eq!(
        permitted
            .iter()
            .map(|subtree| general_name(&subtree.base))
            .collect::<BTreeSet<_>>(),
        set(&[
            "docker.io",
            "quay.io",
            "localhost",
            "registry.ci",
            "127.0.0.0/8",
            "::1/128",
            "10.0.0.5/32",
            "192.0.2.9/32",
            "2001:db8::7/128",
        ])
    );
}

#[test]
fn the_authority_is_kept_across_restarts_and_when_the_configuration_shrinks() {
    let dir = TempDir::new().unwrap();
    let first = open(&dir, &["docker.io", "quay.io"]).ca_pem();
    let key = read(&dir, "ca.key");
    for registries in [&["docker.io", "quay.io"][..], &["quay.io"], &[]] {
        assert_eq!(open(&dir, registries).ca_pem(), first);
        assert_eq!(read(&dir, "ca.key"), key);
    }
}

#[test]
fn an_outgrown_authority_is_replaced_and_still_told_to_clients() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let old = Tls::open_at(options(&dir, &["quay.io"]), start)
        .unwrap()
        .ca_pem();
    let key = read(&dir, "ca.key");
    let tls = Tls::open_at(options(&dir, &["quay.io", "ghcr.io"]), start).unwrap();
    let new = read(&dir, "ca.pem");
    assert_ne!(read(&dir, "ca.key"), key);
    assert_eq!(
        tls.ca_pem(),
        format!("{new}{}", String::from_utf8_lossy(&old))
    );

    handshake_at(&tls, new.as_bytes(), "ghcr.io", start).unwrap();
    handshake_at(&tls, &tls.ca_pem(), "ghcr.io", start).unwrap();
    handshake_at(&tls, &old, "quay.io", start).unwrap_err();

    let names = |pem: &[u8]| {
        let der = certificates(pem).remove(0);
        let (_, ca) = X509Certificate::from_der(&der).unwrap();
        ca.subject().to_string()
    };
    assert_ne!(names(new.as_bytes()), names(&old));
}

#[test]
fn a_running_authority_is_renewed_in_time_for_clients_that_trust_the_old_one() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let tls = Tls::open_at(options(&dir, &["quay.io"]), start).unwrap();
    let old = tls.ca_pem();
    let key = read(&dir, "ca.key");
    let day = |n| start + Duration::days(n);

    handshake_at(&tls, &old, "quay.io", day(19)).unwrap();
    assert_eq!(read(&dir, "ca.pem"), old);

    // A name that is not cached, so that a leaf is made.
    handshake_at(&tls, &old, "quay.io", day(21)).unwrap();
    let new = read(&dir, "ca.pem");
    assert_ne!(new, old);
    assert_eq!(read(&dir, "ca.key"), key);
    assert_eq!(read(&dir, "ca.previous.pem"), old);
    handshake_at(&tls, &old, "quay.io", day(29)).unwrap();
    handshake_at(&tls, new.as_bytes(), "quay.io", day(29)).unwrap();
    handshake_at(&tls, new.as_bytes(), "quay.io", day(32)).unwrap();

    let restarted = Tls::open_at(options(&dir, &["quay.io"]), day(22)).unwrap();
    assert_eq!(read(&dir, "ca.pem"), new);
    let Identity::Minted(minted) = &restarted.identity else {
        panic!("no authority");
    };
    let bundle = |now| certificates(lock(&minted.authority).bundle(now).as_bytes()).len();
    assert_eq!((bundle(day(29)), bundle(day(31))), (2, 1));
}

#[test]
fn an_authority_that_ended_while_nobody_ran_it_is_renewed() {
    let dir = TempDir::new().unwrap();
    let start = now();
    Tls::open_at(options(&dir, &["quay.io"]), start).unwrap();
    let later = start + Duration::days(400);
    let tls = Tls::open_at(options(&dir, &["quay.io"]), later).unwrap();
    let roots = read(&dir, "ca.pem");
    handshake_at(&tls, roots.as_bytes(), "quay.io", later).unwrap();
}

#[test]
fn a_killed_start_is_completed_by_the_next() {
    let dir = TempDir::new().unwrap();
    open(&dir, &["quay.io"]);
    let key = read(&dir, "ca.key");
    let state = dir.path().join("state");
    fs::rename(state.join("ca.pem"), state.join("ca.previous.pem")).unwrap();
    fs::write(state.join(".ca.pem.new"), "half a certif").unwrap();
    let tls = open(&dir, &["quay.io"]);
    assert_eq!(read(&dir, "ca.key"), key);
    handshake_at(&tls, read(&dir, "ca.pem").as_bytes(), "quay.io", now()).unwrap();
    assert!(!state.join(".ca.pem.new").exists());
}

#[test]
fn processes_that_start_at_once_share_one_authority() {
    for _ in 0..20 {
        let dir = TempDir::new().unwrap();
        let together = std::sync::Barrier::new(8);
        let start = || {
            together.wait();
            open(&dir, &["quay.io"]).ca_pem()
        };
        let minted: HashSet<Bytes> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        assert_eq!(minted.len(), 1);
        assert!(minted.contains(read(&dir, "ca.pem").as_bytes()));
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_serves_what_it_has() {
    let dir = TempDir::new().unwrap();
    let start = now();
    let first = Tls::open_at(options(&dir, &["quay.io"]), start)
        .unwrap()
        .ca_pem();
    let lock = dir.path().join("state/ca.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    for days in [1, 25] {
        let now = start + Duration::days(days);
        let tls = Tls::open_at(options(&dir, &["quay.io"]), now).unwrap();
        handshake_at(&tls, &first, "quay.io", now).unwrap();
    }
    let refused = Tls::open(options(&dir, &["ghcr.io"])).err().unwrap();
    assert!(refused.to_string().contains("ca.lock"), "{refused}");
}

#[test]
fn what_is_wrong_with_an_authority_is_said_and_nothing_replaced() {
    let other = TempDir::new().unwrap();
    open(&other, &["quay.io"]);
    let leaf = CertificateParams::new(vec!["quay.io".to_owned()]).unwrap();
    let leaf = leaf
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem();
    let garbled = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_owned();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let no_der = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (file, contents, expected) in [
        ("ca.pem", String::new(), "holds no PEM certificate"),
        ("ca.pem", "hello".to_owned(), "holds no PEM certificate"),
        ("ca.pem", garbled, "cannot be understood"),
        (
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA".to_owned(),
            "cannot be understood",
        ),
        (
            "ca.pem",
            read(&other, "ca.pem"),
            "does not belong to the key in",
        ),
        (
            "ca.pem",
            leaf,
            "is no certificate of a certificate authority",
        ),
        ("ca.key", String::new(), "holds no PEM private key"),
        ("ca.key", encrypted.to_owned(), "is encrypted"),
        ("ca.key", no_der.to_owned(), "cannot be understood"),
        (
            "ca.key",
            read(&other, "ca.key"),
            "does not belong to the key in",
        ),
    ] {
        let dir = TempDir::new().unwrap();
        open(&dir, &["quay.io"]);
        fs::write(dir.path().join("state").join(file), &contents).unwrap();
        let before = (read(&dir, "ca.pem"), read(&dir, "ca.key"));
        let error = Tls::open(options(&dir, &["quay.io"]))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("remove both ca.pem and ca.key"), "{error}");
        assert!(
            error.contains(&dir.path().join("state").display().to_string()),
            "{error}"
        );
        assert_eq!((read(&dir, "ca.pem"), read(&dir, "ca.key")), before);
    }

    let dir = TempDir::new().unwrap();
    open(&dir, &["quay.io"]);
    fs::remove_file(dir.path().join("state/ca.key")).unwrap();
    let error = Tls::open(options(&dir, &[])).err().unwrap().to_string();
    assert!(error.contains("ca.key is missing"), "{error}");
}

#[test]
fn an_operators_authority_is_used_and_never_replaced() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "The Example Company");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let start = now();
    params.not_before = start - Duration::hours(1);
    params.not_after = start + Duration::days(2);
    let mut place = |permits: Option<&Permits>| {
        params.name_constraints = permits.map(Permits::constraints);
        let ca = params.self_signed(&key).unwrap().pem();
        fs::write(state.join("ca.pem"), &ca).unwrap();
        fs::write(state.join("ca.key"), key.serialize_pem()).unwrap();
        ca
    };

    let ca = place(None);
    for hours in [0, 40] {
        let now = start + Duration::hours(hours);
        let tls = Tls::open_at(options(&dir, &["quay.io"]), now).unwrap();
        handshake_at(&tls, ca.as_bytes(), "quay.io", now).unwrap();
        let leaf = handshake_at(&tls, ca.as_bytes(), "localhost", now)
            .unwrap()
            .remove(0);
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let begin = (start - Duration::hours(1)).unix_timestamp();
        let end = (start + Duration::days(2)).unix_timestamp();
        assert!(leaf.validity().not_before.timestamp() >= begin);
        assert!(leaf.validity().not_after.timestamp() <= end);
    }
    let over = Tls::open_at(options(&dir, &["quay.io"]), start + Duration::days(3));
    let error = over.err().unwrap().to_string();
    assert!(
        error.contains("is not standin's own and is valid only from"),
        "{error}"
    );

    let narrow = Permits::exactly(&BTreeSet::from([Host::parse("quay.io").unwrap()]));
    let ca = place(Some(&narrow));
    let error = Tls::open(options(&dir, &["quay.io"]))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("does not permit localhost, registry.ci, 10.0.0.5"),
        "{error}"
    );
    assert_eq!(read(&dir, "ca.pem"), ca);
}
