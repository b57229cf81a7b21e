//! A registry client no cleverer than the tests need: every step is one request that a reader can name.

use bytes::Bytes;
use reqwest::{
    Method, RequestBuilder,
    header::{CONTENT_TYPE, HeaderMap},
};
use serde_json::Value;

use super::image::{Blob, Image, Manifest};

/// Where requests go, and the connections to it.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    /// A client of `base` (scheme, host, port) that trusts the certificates in `roots` and no others, follows no
    /// redirect and uses no proxy. `dial` are names to be resolved by hand.
    pub(crate) fn new(base: &str, roots: &[u8], dial: &[(&str, std::net::SocketAddr)]) -> Self {
        let roots = reqwest::Certificate::from_pem_bundle(roots).unwrap();
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(roots);
        for (name, address) in dial {
            http = http.resolve(name, *address);
        }
        Self {
            http: http.build().unwrap(),
            base: base.to_owned(),
        }
    }

    /// A client of `base` that goes there by `proxy`, a URL, and trusts `roots` alone, for the proxy as well.
    pub(crate) fn by_proxy(base: &str, roots: &[u8], proxy: &str) -> Self {
        let roots = reqwest::Certificate::from_pem_bundle(roots).unwrap();
        let http = reqwest::Client::builder()
            .proxy(reqwest::Proxy::all(proxy).unwrap())
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(roots);
        Self {
            http: http.build().unwrap(),
            base: base.to_owned(),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        assert!(path.starts_with('/'), "{path} is no absolute path");
        self.http.request(method, format!("{}{path}", self.base))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn head(&self, path: &str) -> RequestBuilder {
        self.request(Method::HEAD, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &str) -> RequestBuilder {
        self.request(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// Opens an upload session; its `Location`.
    pub(crate) async fn start_upload(&self, name: &str) -> String {
        self.post(&format!("/v2/{name}/blobs/uploads/"))
            .answer()
            .await
            .expect(202)
            .header("location")
            .to_owned()
    }

    /// POST, then one PUT with the whole blob.
    pub(crate) async fn push_blob(&self, name: &str, blob: &Blob) {
        let location = self.start_upload(name).await;
        self.put(&finish(&location, &blob.digest))
            .body(blob.bytes.clone())
            .answer()
            .await
            .expect(201);
    }

    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        reference: &str,
        manifest: &Manifest,
    ) -> Answer {
        self.put(&format!("/v2/{name}/manifests/{reference}"))
            .header(CONTENT_TYPE, &manifest.media_type)
            .body(manifest.bytes.clone())
            .answer()
            .await
    }

    /// Pushes the image's blobs, then its manifest.
    pub(crate) async fn push_image(&self, name: &str, reference: &str, image: &Image) {
        for blob in image.blobs() {
            self.push_blob(name, blob).await;
        }
        self.put_manifest(name, reference, &image.manifest)
            .await
            .expect(201);
    }

    pub(crate) async fn get_manifest(&self, name: &str, reference: &str) -> Answer {
        self.get(&format!("/v2/{name}/manifests/{reference}"))
            .answer()
            .await
    }

    pub(crate) async fn head_manifest(&self, name: &str, reference: &str) -> Answer {
        self.head(&format!("/v2/{name}/manifests/{reference}"))
            .answer()
            .await
    }

    pub(crate) async fn get_blob(&self, name: &str, digest: &str) -> Answer {
        self.get(&format!("/v2/{name}/blobs/{digest}"))
            .answer()
            .await
    }

    pub(crate) async fn head_blob(&self, name: &str, digest: &str) -> Answer {
        self.head(&format!("/v2/{name}/blobs/{digest}"))
            .answer()
            .await
    }

    /// Pulls manifest and blobs as a client does, and compares every byte.
    pub(crate) async fn pull_image(&self, name: &str, reference: &str, image: &Image) {
        let manifest = self.get_manifest(name, reference).await.expect(200);
        assert_eq!(manifest.body, image.manifest.bytes, "{name}:{reference}");
        for blob in image.blobs() {
            let answer = self.get_blob(name, &blob.digest).await.expect(200);
            assert!(answer.body == blob.bytes, "{} has other bytes", blob.digest);
        }
    }

    /// The tags of `name`, in the order they came.
    pub(crate) async fn tags(&self, name: &str) -> Vec<String> {
        let answer = self.get(&format!("/v2/{name}/tags/list")).answer().await;
        let body = answer.expect(200).json();
        body["tags"]
            .as_array()
            .unwrap_or_else(|| panic!("no tags in {body}"))
            .iter()
            .map(|tag| tag.as_str().unwrap().to_owned())
            .collect()
    }
}

/// The request that finishes an upload: its `Location` with the digest added.
pub(crate) fn finish(location: &str, digest: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={digest}")
}

/// Sends a request and takes the whole answer.
pub(crate) trait Exchange {
    async fn answer(self) -> Answer;
}

impl Exchange for RequestBuilder {
    async fn answer(self) -> Answer {
        let (client, request) = self.build_split();
        let request = request.unwrap();
        let shown = format!("{} {}", request.method(), request.url());
        let response = client
            .execute(request)
            .await
            .unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response
                .bytes()
                .await
                .unwrap_or_else(|error| panic!("{shown}: the body: {error:?}")),
            request: shown,
        }
    }
}

/// A whole answer, and the request that it answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}: {:?} {}",
            self.request,
            self.headers,
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    /// Expects a refusal in the spec's form.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let this = self.expect(status);
        assert_eq!(this.error()["code"], code, "{}: {:?}", this.request, this);
        assert_eq!(
            this.header("content-type"),
            "application/json",
            "{}",
            this.request
        );
        this
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("{}: no {name} in {:?}", self.request, self.headers))
            .to_str()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            let body = String::from_utf8_lossy(&self.body);
            panic!("{}: {error} in {body}", self.request)
        })
    }

    /// The message of the first error, which is all that docker shows its user.
    #[track_caller]
    pub(crate) fn message(&self) -> String {
        self.error()["message"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn error(&self) -> Value {
        self.json()["errors"][0].clone()
    }
}
