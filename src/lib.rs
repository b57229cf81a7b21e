//! A container registry that stands in for every other registry while a CI job runs: what the job pushes stays here, all
//! else is pulled through from the real registries, and what was pushed here is served in place of an upstream's image of
//! the same name. This page is the map; the `standin` program is `main.rs` and calls [`cli`].
//!
//! # Words
//!
//! Of the [distribution-spec], in its sense: registry, repository, blob, manifest, image index, descriptor, digest, tag,
//! reference, upload session. Ours:
//!
//! - *Upstream*: a real registry that we may ask. Only configured ones ever are.
//! - *Source*: the registry a request means, whichever way it says so ([`registry::Sources::resolve`]).
//! - *Canonical name*: `<source>/<repository>`, such as `docker.io/library/alpine` ([`types::CanonicalName`]). Each
//!   request has exactly one.
//! - *Namespace*: whose content is served ([`types::Namespace`]): `_local`, what was pushed or seeded here, or the
//!   source's own, what was pulled through from it.
//! - *Shadow*: an entry in `_local` that answers in place of the source's.
//! - *Member*: content that a repository may serve, because it was pushed there, a manifest held there names it, or its
//!   source served it. Content itself is stored once, whoever brought it.
//! - *Commit*: the moment bytes become visible, whole and all at once.
//! - *Fill*: the one download of a blob from an upstream that everyone who wants it reads behind.
//! - *Owed*: content that a push named and only the source has; accepted, and fetched in the background.
//!
//! # Layers
//!
//! ```text
//!      main  cli  config  app               the program: options, and everything put together
//! L5   job                                  a server started, found, waited for and stopped by a job's steps; its report
//!      clients                              how docker, containerd, podman and others are pointed here
//!      transfer                             images carried between registries, layouts and archives
//! L4   proxy    tls    http                 connections, certificates, the spec's endpoints
//! L3   registry                             the rules: what a name means, who wins, what a push must bring
//!      upkeep                               what is on disk, whether it is sound, and what of it may go
//! L2   cache  upstream                      one download for all who ask; how other registries are asked
//! L1   storage                              bytes at rest
//! L0   types  metrics  activity             values of the spec, parsed once; what is counted, and what happened by name
//! ```
//!
//! A layer uses those below it and never one above or beside it, but for `cache`, which uses `upstream`, and `proxy`,
//! which uses `tls`. The layers below `http` know no HTTP server, and `registry` no HTTP at all. [`app`] joins them: it
//! hands [`http`] to [`proxy`] as a parameter, and `/ca.pem` and `/status` to [`http`] as functions.
//!
//! # The life of a pull
//!
//! 1. `proxy` looks at a connection's first byte. TLS gets a certificate from `tls` for the server name it asks for; then
//!    it is HTTP/1.1 either way, or HTTP/2 if `--h2` offers that. A CONNECT to a configured registry begins the same once
//!    more, within that connection.
//! 2. `http` reads the path from its end, parses name, reference and digest into `types`, and has the registry resolve
//!    the name: `?ns=`, the host the client believes in, the name's first component, or the default registry. Then
//!    [`Access`](registry::access::Access) lets the request pass, or says whether logging in would help.
//! 3. `registry` looks in `_local` for a manifest ([`Registry::pull_manifest`](registry::Registry::pull_manifest)). If it
//!    has none, and the source may be asked, it goes on to `cache`.
//! 4. `cache` answers a digest it holds, and a tag it heard of within `--tag-ttl`. Else it asks the upstream, once for all
//!    who want the same thing at that moment, verifies the digest, keeps the manifest, and records what it names as the
//!    repository's members. If the upstream fails, an older answer does, marked as stale.
//! 5. Blobs follow ([`Registry::pull_blob`](registry::Registry::pull_blob)). Members whose bytes are here are read from
//!    disk. For the others `cache` starts a fill, or joins the one under way: it writes a file that grows, and each client
//!    reads behind it at its own pace. A body that breaks off goes on in the same fill. The last byte is given out only
//!    after the digest was verified and the blob committed.
//!
//! # The life of a push
//!
//! 1. HEAD of each blob: 200 if the repository has it, or its source does by a manifest pulled from there. The upstream is
//!    not asked.
//! 2. POST opens a session: a private file and a running hash. PATCH and PUT append to it; a chunk that breaks off leaves
//!    both as they were.
//! 3. PUT with the digest finishes it ([`Registry::finish_upload`](registry::Registry::finish_upload)): the hash is
//!    compared, the file is renamed onto its digest (the commit), the repository gets its member, and 201 is sent.
//!    Whoever pushes the same bytes at the same time does so in a session of their own, and succeeds too.
//! 4. PUT of the manifest ([`Registry::push_manifest`](registry::Registry::push_manifest)): all that it names must be here
//!    with the size it says, or its source must have it (that is owed then), or the push is refused with every digest
//!    that is missing. The manifest becomes visible before the tag that names it. All of it is written to `_local`; no
//!    push leaves this process.
//!
//! # Where to look
//!
//! | Question | Answer |
//! |---|---|
//! | Which code serves end-6? | `http/mod.rs`, `Exchange::route`: the route table in the spec's order |
//! | Which status and code has this failure? | `http/error.rs`, `classify`: one match |
//! | What does a name mean? | `registry/source.rs`, `Sources::resolve` |
//! | Who wins, local or upstream? | `registry/pull.rs`, `Registry::pull_manifest` and `Registry::pull_blob` |
//! | What must a push bring? | `registry/needs.rs`, `Registry::needs` |
//! | When is a blob visible? | `storage/upload.rs`, `VerifiedBlob`; then `publish` in `storage/fs.rs` |
//! | What is on disk? | `storage/layout.rs`: the tree, and every key |
//! | How do many clients share one download, and how does it go on when it breaks off? | `cache/fill.rs`; `cache/download.rs` |
//! | How old may a tag's answer be? | `cache/mod.rs`, `Cache::manifest` |
//! | What is evicted, and when? | `cache/plan.rs`, pure; `cache/size.rs` counts and applies; `storage/eviction.rs` removes |
//! | What of a data directory can be wrong, and what does a repair do? | `upkeep/verify.rs`; `upkeep/repair.rs` |
//! | What does `prune` take, and in which order? | `upkeep/prune.rs`, `prune` |
//! | What is a file in the data directory? | `storage/record.rs`, `Record::at`; all of them: `storage/survey.rs` |
//! | What is sent to an upstream, and what do its failures become? | `upstream/mod.rs`; then `classify_upstream` in `http/error.rs` |
//! | Which log-in or token is an upstream shown? | `upstream/auth.rs`; where log-ins come from: `upstream/credentials.rs` |
//! | Who may do this? | `registry/access/mod.rs`, `Access::permit`; what a client shows and is told: `http/auth.rs` |
//! | What becomes of a CONNECT, and where may tunnels lead? | `proxy/connect.rs`, `Front::judge`; then `proxy/policy.rs` |
//! | When is the CA made, kept or replaced? | `tls/authority.rs` |
//! | What does an option mean, and which place wins? | `config/mod.rs`; each text becomes a value in `config/value.rs` |
//! | What does `configure` write for a client, and how is it taken back? | `clients/`, one file per client; `clients/journal.rs` |
//! | Which processes is a run, and who ends what when one is killed? | `job/run/mod.rs`; `job/run/belongings.rs`, `Belongings::end` |
//! | Which process does a ready file mean, and is it that one still? | `job/instance.rs`; `job/process.rs` |
//! | Which requests are one pull, and what is remembered of it? | `activity/pulls.rs`; `activity/mod.rs` says what is told to it |
//! | What is on `/status`, and in a report? | `job/report/`; who sees it: `http/status.rs` |
//! | How is an image carried, and when is it visible where it goes? | `transfer/copy.rs`; the ends are the other files there |
//! | What may be seeded, and what becomes of a docker archive? | `transfer/source.rs`, the grammar; `transfer/seed.rs`; `transfer/docker/` |
//! | In what order does everything start and stop? | `app.rs`, `serve` and `run` |
//!
//! [distribution-spec]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md

pub mod activity;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clients;
pub mod config;
pub mod http;
pub mod job;
pub mod metrics;
pub mod proxy;
pub mod registry;
pub mod storage;
pub mod tls;
pub mod transfer;
pub mod types;
pub mod upkeep;
pub mod upstream;
