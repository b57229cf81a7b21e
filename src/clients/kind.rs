//! kind: a cluster's configuration, and the `certs.d` that its nodes mount.
//!
//! A node has a network of its own, where 127.0.0.1 is the node: it reaches us at the gateway of docker's bridge only, and
//! we have to listen there.

use std::net::IpAddr;

use super::{Ask, Error, Mode, Plan, daemon, merge};

pub(super) fn plan(ask: &Ask<'_>) -> Result<Plan, Error> {
    if ask.request.mode == Mode::Proxy {
        return Err(Error::Unfit(
            "kind's nodes use mirrors: leave out --mode proxy (kind hands on HTTPS_PROXY by itself)".to_owned(),
        ));
    }
    let mut plan = Plan::default();
    let address = reachable(ask)?;
    let directory = ask.place.ours().join("kind");
    let ca = ask
        .standin
        .ca
        .as_ref()
        .filter(|_| ask.standin.url.is_https());
    let mut hosts = format!(
        "[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n",
        merge::quoted(&address)
    );
    if let Some(ca) = ca {
        // In the same directory, which the node sees under another path.
        plan.file(directory.join("certs.d/_default/ca.pem"), ca.as_bytes());
        hosts.push_str("  ca = \"ca.pem\"\n");
    }
    plan.file(directory.join("certs.d/_default/hosts.toml"), hosts);
    let mounted = serde_json::Value::from(directory.join("certs.d").to_string_lossy());
    let file = directory.join("cluster.yaml");
    let shown = file.display().to_string();
    plan.file(file, CLUSTER.replace("CERTS_D", &mounted.to_string()));
    plan.note(format!("kind create cluster --config {shown}"));
    Ok(plan)
}

/// Our address as a node can use it.
fn reachable(ask: &Ask<'_>) -> Result<String, Error> {
    if !ask.standin.loopback() {
        return Ok(ask.standin.address());
    }
    let scheme = if ask.standin.url.is_https() {
        "https"
    } else {
        "http"
    };
    let elsewhere = |ip: IpAddr| !ip.is_loopback() && ip.is_ipv4();
    if let Some(listener) = ask
        .standin
        .listeners
        .iter()
        .find(|listener| elsewhere(listener.ip()))
    {
        return Ok(format!("{scheme}://{listener}"));
    }
    let gateway =
        daemon::gateway(ask.place, "kind").or_else(|| daemon::gateway(ask.place, "bridge"));
    let gateway = gateway.unwrap_or_else(|| "172.17.0.1".to_owned());
    let port = ask.standin.url.port();
    Err(Error::Unfit(format!(
        "a node cannot reach {}: start standin with --listen {} --listen {gateway}:{port} ({gateway} is the gateway of \
         docker's bridge), or give --url an address that nodes can reach",
        ask.standin.url,
        ask.standin.authority()
    )))
}

/// Nodes with containerd 1.x know the first plugin's name, those with 2.x the second; the other one is passed over.
const CLUSTER: &str = "\
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
containerdConfigPatches:
- |-
  [plugins.\"io.containerd.grpc.v1.cri\".registry]
    config_path = \"/etc/containerd/certs.d\"
- |-
  [plugins.\"io.containerd.cri.v1.images\".registry]
    config_path = \"/etc/containerd/certs.d\"
nodes:
- role: control-plane
  extraMounts:
  - hostPath: CERTS_D
    containerPath: /etc/containerd/certs.d
    readOnly: true
";
