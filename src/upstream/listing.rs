//! Listings of other registries: tags and referrers, page after page.

use reqwest::{
    Url,
    header::{HeaderMap, LINK},
};
use serde::Deserialize;

use super::{
    Cause, Error, Patience, Upstreams,
    answer::Answer,
    auth::Access,
    endpoint::{Ask, Want},
    exchange::Order,
    text,
};
use crate::types::{
    Digest, Reference, Referrer, RegistryHost, RepositoryName, Tag, manifest,
    referrer::parse_listing,
};

/// Tags read from an upstream for one listing, at most.
const TAG_LIMIT: usize = 10_000;

/// Bytes of a page, at most.
const PAGE_LIMIT: usize = 4 << 20;

/// Pages of referrers read for one subject, at most.
const REFERRER_PAGES: usize = 20;

/// A page of tags as an upstream sent it.
#[derive(Debug)]
pub struct RemoteTags {
    /// In the upstream's order; what is no tag is left out.
    pub tags: Vec<Tag>,
    /// It says that there is another page.
    pub more: bool,
}

impl Upstreams {
    /// `GET /v2/<name>/tags/list?n=<n>&last=<last>` (end-8b).
    pub async fn page_of_tags(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        last: Option<&str>,
        n: usize,
    ) -> Result<Option<RemoteTags>, Error> {
        let mut path = format!("tags/list?n={n}");
        // Anything else can be behind no tag in the upstream's eyes, or in ours.
        if let Some(last) = last.and_then(|last| last.parse::<Tag>().ok()) {
            path.push_str(&format!("&last={last}"));
        }
        let page = self.tags(registry, name, &path).await?;
        Ok(page.map(|(tags, next)| RemoteTags {
            tags,
            more: next.is_some(),
        }))
    }

    /// `GET /v2/<name>/tags/list` (end-8a), page after page, up to 10,000 tags.
    pub async fn list_tags(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
    ) -> Result<Option<Vec<Tag>>, Error> {
        let mut all: Vec<Tag> = Vec::new();
        let mut path = "tags/list".to_owned();
        loop {
            let Some((tags, next)) = self.tags(registry, name, &path).await? else {
                return Ok(None);
            };
            let empty = tags.is_empty();
            all.extend(tags);
            match next {
                // A page without a tag would be asked for again and again.
                Some(query) if !empty && all.len() < TAG_LIMIT => {
                    path = format!("tags/list?{query}");
                }
                _ => return Ok(Some(all)),
            }
        }
    }

    /// `GET /v2/<name>/referrers/<digest>` (end-12), page after page; where there is no such API, the tag that stands in
    /// for it.
    pub async fn list_referrers(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, Error> {
        let mut all = Vec::new();
        let mut path = format!("referrers/{subject}");
        for _ in 0..REFERRER_PAGES {
            let accept = Some(manifest::OCI_INDEX);
            let answer = match self.listing(registry, name, &path, accept).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return self.tagged_referrers(registry, name, subject).await,
                Err(Error {
                    cause: Cause::Status(400..=499),
                    ..
                }) if all.is_empty() => {
                    return self.tagged_referrers(registry, name, subject).await;
                }
                Err(error) => return Err(error),
            };
            let next = next_page(&answer.headers, &answer.url);
            let page = parse_listing(&answer.into_bytes()).ok_or_else(|| {
                Error::new(
                    registry,
                    Cause::Protocol("its referrers can't be read".to_owned()),
                )
            })?;
            all.extend(page);
            match next {
                Some(query) => path = format!("referrers/{subject}?{query}"),
                None => break,
            }
        }
        Ok(all)
    }

    /// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema>
    async fn tagged_referrers(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, Error> {
        let mut tag = format!("{}-{}", subject.algorithm(), subject.hex());
        tag.truncate(128);
        let Ok(tag) = tag.parse() else {
            return Ok(Vec::new());
        };
        let index = self
            .get_manifest(registry, name, &Reference::Tag(tag), Patience::Full.into())
            .await?;
        Ok(index
            .and_then(|index| parse_listing(&index.bytes))
            .unwrap_or_default())
    }

    /// One page, and the query of the next.
    async fn tags(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        path: &str,
    ) -> Result<Option<(Vec<Tag>, Option<String>)>, Error> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let Some(answer) = self.listing(registry, name, path, None).await? else {
            return Ok(None);
        };
        let next = next_page(&answer.headers, &answer.url);
        let page: Page = serde_json::from_slice(&answer.into_bytes()).map_err(|error| {
            Error::new(
                registry,
                Cause::Protocol(format!("its tag list can't be read: {error}")),
            )
        })?;
        let tags = page.tags.unwrap_or_default();
        Ok(Some((
            tags.iter().filter_map(|tag| tag.parse().ok()).collect(),
            next,
        )))
    }

    async fn listing(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        rest: &str,
        accept: Option<&str>,
    ) -> Result<Option<Answer>, Error> {
        let ask = Ask {
            name,
            rest,
            accept,
            access: Access::Pull,
            want: Want::Whole(PAGE_LIMIT),
            effort: Patience::Full.into(),
        };
        self.exchange(registry, ask, Order::MirrorsLast).await
    }
}

/// The query of the page behind this one, from `Link: <…?…>; rel="next"`. Only the query is believed, so that a listing
/// can't lead to another host or repository.
fn next_page(headers: &HeaderMap, current: &Url) -> Option<String> {
    let link = text(headers, LINK)?;
    let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
    if !parameters.contains("next") {
        return None;
    }
    current.join(target).ok()?.query().map(str::to_owned)
}
