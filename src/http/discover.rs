//! Discovery on the wire: tags, referrers, the catalog; page by page.

use actix_web::{
    HttpResponse, HttpResponseBuilder,
    http::header::{self, HeaderName},
};
use serde_json::json;

use super::{Exchange, Named, Parameters, parse_digest, path::Links, warning::warning};
use crate::{
    registry::{Error, Page},
    types::{Digest, manifest::OCI_INDEX},
};

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Exchange<'_> {
    pub(super) async fn list_tags(&self, named: &Named) -> Result<HttpResponse, Error> {
        let limit = limit(&named.parameters, self.http.limits.page)?;
        let page = self
            .http
            .registry
            .list_tags(&named.target, named.parameter("last"), limit)
            .await?;
        let tags: Vec<&str> = page.entries.iter().map(|tag| tag.as_str()).collect();
        let next = tags
            .last()
            .map(|last| named.links().next("tags/list", limit, last, None));
        let mut response = paged(&page, next);
        Ok(response.json(json!({ "name": named.name, "tags": tags })))
    }

    pub(super) async fn list_referrers(
        &self,
        named: &Named,
        subject: &Digest,
    ) -> Result<HttpResponse, Error> {
        let limit = limit(&named.parameters, self.http.limits.page)?;
        let wanted = named
            .parameter("artifactType")
            .filter(|wanted| !wanted.is_empty());
        let last = named.parameter("last").map(parse_digest).transpose()?;
        let page = self
            .http
            .registry
            .list_referrers(&named.target, subject, wanted, last.as_ref(), limit)
            .await?;
        let rest = format!("referrers/{subject}");
        let next = page.entries.last().map(|last| {
            named
                .links()
                .next(&rest, limit, &last.digest.to_string(), wanted)
        });
        let mut response = paged(&page, next);
        if wanted.is_some() {
            response.insert_header((FILTERS_APPLIED, "artifactType"));
        }
        // Not `json`, which would overwrite the type.
        let index =
            json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": page.entries });
        Ok(response
            .insert_header((header::CONTENT_TYPE, OCI_INDEX))
            .body(index.to_string()))
    }

    /// What was pushed here and may be read, in the words of whoever asks.
    pub(super) async fn list_repositories(
        &self,
        parameters: &Parameters,
    ) -> Result<HttpResponse, Error> {
        let ns = parameters.all("ns");
        let view = self.http.registry.view(&self.asked("", &ns))?;
        let identity = self.reader().await?;
        let limit = limit(parameters, self.http.limits.page)?;
        let registry = &self.http.registry;
        let page = registry
            .list_repositories(&view, parameters.one("last"), limit, &identity)
            .await?;
        let links = Links {
            name: "",
            ns: ns.first().map(String::as_str),
        };
        let next = page
            .entries
            .last()
            .map(|last| links.next("_catalog", limit, last, None));
        let mut response = paged(&page, next);
        Ok(response.json(json!({ "repositories": page.entries })))
    }
}

/// How many entries a page has: as many as were asked for, and `most` at most.
fn limit(parameters: &Parameters, most: usize) -> Result<usize, Error> {
    match parameters.one("n") {
        None => Ok(most),
        Some(n) => {
            let n: usize = n
                .parse()
                .map_err(|_| Error::Unsupported(format!("n={n:?} is no number of entries")))?;
            Ok(n.min(most))
        }
    }
}

fn paged<T>(page: &Page<T>, next: Option<String>) -> HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    // A page of none has no last entry to go on behind.
    if let Some(next) = next.filter(|_| page.more) {
        response.insert_header((header::LINK, format!("<{next}>; rel=\"next\"")));
    }
    if let Some(error) = &page.incomplete
        && let Some(warning) = warning(&format!("standin: only what is local: {error}"))
    {
        response.insert_header((header::WARNING, warning));
    }
    response
}
