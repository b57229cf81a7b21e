//! A stolen CA key: what it can sign for hosts that are not configured is refused by the clients themselves.

use std::{path::Path, process::Command, sync::Arc};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::support::{TestRegistry, within};

/// The configured one, and two that are not.
const HOSTS: [(&str, bool); 3] = [("quay.io", true), ("pypi.org", false), ("10.1.2.3", false)];

/// A leaf for `host`, made by the thief.
fn forge(state: &Path, host: &str) -> (CertificateDer<'static>, PrivateKeyDer<'static>, String) {
    let read = |name: &str| std::fs::read_to_string(state.join(name)).unwrap();
    let ca_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let now = std::time::SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + std::time::Duration::from_secs(3600)).into();
    let leaf = params.signed_by(&key, &issuer).unwrap();
    let pem = leaf.pem();
    (
        leaf.into(),
        PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        pem,
    )
}

/// A server with that leaf; its address.
async fn serve(leaf: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> String {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let _ = acceptor.accept(tcp).await;
        }
    });
    address
}

async fn registry() -> TestRegistry {
    let builder = TestRegistry::builder().registry("quay.io", "http://127.0.0.1:9");
    builder.start().await
}

#[tokio::test]
async fn openssl_refuses_it() {
    let registry = registry().await;
    let state = registry.home().join("state");
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("openssl is not installed: whether it refuses is not tried");
        return;
    }
    for (host, permitted) in HOSTS {
        let (_, _, pem) = forge(&state, host);
        let leaf = registry.home().join("leaf.pem");
        std::fs::write(&leaf, pem).unwrap();
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
            .args([registry.ca(), &leaf])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), permitted, "{host}: {said}");
        if !permitted {
            assert!(
                said.contains("permitted subtree violation"),
                "{host}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn rustls_refuses_it() {
    let registry = registry().await;
    let state = registry.home().join("state");
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(registry.ca()).unwrap();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    for (host, permitted) in HOSTS {
        let (leaf, key, _) = forge(&state, host);
        let address = serve(leaf, key).await;
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(host).unwrap();
        match within("a handshake", connector.connect(name, tcp)).await {
            Ok(_) => assert!(permitted, "{host} was accepted"),
            Err(error) => {
                assert!(!permitted, "{host}: {error}");
                assert!(
                    error.to_string().contains("NameConstraintViolation"),
                    "{error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn go_refuses_it() {
    if Command::new("go").arg("version").output().is_err() {
        eprintln!("go is not installed: whether it refuses is not tried");
        return;
    }
    let registry = registry().await;
    let state = registry.home().join("state");
    let source = registry.home().join("main.go");
    std::fs::write(&source, GO_CLIENT).unwrap();
    let client = registry.home().join("client");
    let built = Command::new("go")
        .arg("build")
        .arg("-o")
        .args([&client, &source])
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    for (host, permitted) in HOSTS {
        let (leaf, key, _) = forge(&state, host);
        let address = serve(leaf, key).await;
        let mut command = Command::new(&client);
        command.arg(registry.ca()).args([&address, host]);
        let run = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = within("the Go client ends", run).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), permitted, "{host}: {said}");
        if !permitted {
            assert!(
                said.contains("not permitted by any constraint"),
                "{host}: {said}"
            );
        }
    }
}

/// Takes the CA's file, the server's address, and the name to expect.
const GO_CLIENT: &str = r#"package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

func main() {
	pem, err := os.ReadFile(os.Args[1])
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		panic("no CA")
	}
	conn, err := tls.Dial("tcp", os.Args[2], &tls.Config{RootCAs: roots, ServerName: os.Args[3]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	conn.Close()
}
"#;
