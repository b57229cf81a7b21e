# shellcheck shell=bash
# What the stages about `standin configure` share, after lib.sh: two images, upstreams that have one of them, and what a
# client's files were before. Sourced by scripts/e2e/configure, modern and proxy. SOURCES is the registries that standin
# pulls from, a port with a colon.
: "${WORK:?run me through scripts/test}"

# The clients' own places are the real ones here, and ours. The last two alone are not private to this stage.
for place in /etc/standin /var/lib/standin; do
  [ ! -e "$place" ] || fail "$place is there: undo what standin has configured on this machine first"
done
trap 'stop_all; rm -rf /etc/standin /var/lib/standin' EXIT
PLACES=(/etc/docker /etc/containers /etc/containerd /etc/buildkit /etc/standin /var/lib/standin)
mkdir -p "$WORK/etc.containerd" "$WORK/etc.buildkit" /etc/containerd /etc/buildkit
mount --bind "$WORK/etc.containerd" /etc/containerd
mount --bind "$WORK/etc.buildkit" /etc/buildkit
export DOCKER_HOST=unix:///run/docker.sock
unset CONTAINERS_CERTS_D

# in_path REGISTRY: as the first component of a name.
in_path() { echo "${1/:/_}"; }

# start_sources: an upstream for each of SOURCES that has acme/app, "theirs"; OPTIONS is what standin needs for them.
start_sources() {
  local registry image
  OPTIONS=()
  for image in theirs ours pushed; do make_image "$WORK/$image"; done
  for registry in "${SOURCES[@]}"; do
    start_upstream "$(in_path "$registry")"
    run skopeo copy --dest-tls-verify=false "oci:$WORK/theirs:latest" \
      "docker://${UPSTREAM[$(in_path "$registry")]}/acme/app:latest"
    forget_upstream "$(in_path "$registry")"
    OPTIONS+=(--registry "$registry=http://${UPSTREAM[$(in_path "$registry")]}")
  done
}

# tree: every file's name, mode, owner and content. A Java key store, which ca-certificates' hook makes anew each time, is
# never the same twice.
tree() {
  local place
  for place in "${PLACES[@]}"; do
    [ -e "$place" ] || continue
    find "$place" -printf '%p %y %m %u %g %l\n' | sort
    find "$place" -type f ! -path '*/java/cacerts' -print0 | sort -z | xargs -0 -r sha256sum
  done
}

configure() { run "$STANDIN" configure "$@" --state "$WORK/state"; }

# written CLIENT OPTION...: points it here, twice, and has it checked. What its user was told is in $WORK/told.
written() {
  tree >"$WORK/before.$1"
  configure "$@" --write
  cp "$WORK/out" "$WORK/told"
  tree >"$WORK/written"
  configure "$@" --write
  expect "what a second --write changed" "$(tree | diff - "$WORK/written" || true)" ''
  configure "$@" --check
}

# undone CLIENT: every file is as it was, and that is known.
undone() {
  configure "$1" --undo
  refused 'would not reach standin' "$STANDIN" configure "$1" --check --state "$WORK/state"
  expect "what --undo of $1 left" "$(tree | diff "$WORK/before.$1" - || true)" ''
}

# told_variables NAME...: sets VARIABLES to the NAME=VALUE words that a client's user was told to start it with; these.
told_variables() {
  mapfile -t VARIABLES < <(grep -oE '\b(HTTPS_PROXY|NO_PROXY|SSL_CERT_FILE)=[^ ]*[^ ,)]' "$WORK/told" | sort -u)
  expect 'the variables that are asked for' "${VARIABLES[*]%%=*}" "$*"
}

# shadow: pushes our image as acme/app of all sources, past every client's configuration. unshadow: the reverse.
# STANDIN_LOGIN is USER:PASSWORD, where that takes one.
shadow() {
  local registry
  for registry in "${SOURCES[@]}"; do
    run skopeo copy --dest-tls-verify=false ${STANDIN_LOGIN:+--dest-creds "$STANDIN_LOGIN"} "oci:$WORK/ours:latest" \
      "docker://127.0.0.1:$PORT/$(in_path "$registry")/acme/app:latest"
  done
}
unshadow() {
  local registry
  for registry in "${SOURCES[@]}"; do
    run curl -fsS ${STANDIN_LOGIN:+-u "$STANDIN_LOGIN"} -X DELETE \
      "http://127.0.0.1:$PORT/v2/$(in_path "$registry")/acme/app/manifests/$(layout_manifest "$WORK/ours")"
  done
}

# pulls_both HOW [NAME...]: HOW (a function that pulls each NAME and prints its digest) gets theirs, then with a shadow
# ours.
pulls_both() {
  local how=$1 name
  shift
  for name in "$@"; do
    expect "what $how of $name got" "$("$how" "$name")" "$(layout_manifest "$WORK/theirs")"
  done
  shadow
  for name in "$@"; do
    expect "what $how of $name got with a shadow" "$("$how" "$name")" "$(layout_manifest "$WORK/ours")"
  done
  unshadow
}

# expect_captured NAME:TAG DIGEST: that was pushed to standin, and no upstream was asked to take anything. Gone after that,
# so that the next push of it counts.
expect_captured() {
  local registry=${1%%/*} repository digest
  repository=$(in_path "$registry")/${1#*/}
  repository=http://127.0.0.1:$PORT/v2/${repository%:*}
  digest=$(curl -fsSI -H 'Accept: */*' "$repository/manifests/${1##*:}" | tr -d '\r' |
    sed -n 's/^docker-content-digest: //ip')
  expect "what was pushed as $1" "$digest" "$2"
  run curl -fsS ${STANDIN_LOGIN:+-u "$STANDIN_LOGIN"} -X DELETE "$repository/manifests/$digest"
  for registry in "${SOURCES[@]}"; do
    ! upstream_log "$(in_path "$registry")" | grep -E '^(POST|PUT|PATCH)' >&2 || fail "$registry itself was pushed to"
  done
}

# pull_by_podman NAME, pull_by_buildah NAME, pull_by_skopeo NAME, pull_by_docker NAME: the digest of what came.
podman=(podman --root "$WORK/podman" --runroot "$WORK/podman.run" --tmpdir "$WORK/podman.tmp"
  --storage-driver vfs --cgroup-manager cgroupfs --events-backend none)
buildah=(buildah --root "$WORK/buildah" --runroot "$WORK/buildah.run" --storage-driver vfs)
pull_by_podman() {
  "${podman[@]}" rmi -f "$1" >/dev/null 2>&1 || true
  run "${podman[@]}" pull "$1"
  "${podman[@]}" image inspect -f '{{.Digest}}' "$1"
}
pull_by_buildah() {
  "${buildah[@]}" rmi -f "$1" >/dev/null 2>&1 || true
  run "${buildah[@]}" pull "$1"
  "${buildah[@]}" images --digests --format '{{.Digest}}' "$1" | sort -u
}
pull_by_skopeo() {
  rm -rf "$WORK/pulled"
  run skopeo copy "docker://$1" "oci:$WORK/pulled:latest"
  layout_manifest "$WORK/pulled"
}
pull_by_docker() {
  docker rmi -f "$1" >/dev/null 2>&1 || true
  run docker pull "$1"
  docker_digest "$1"
}

# expect_config_path: containerd itself, started with the file that configure wrote, has its registries there.
expect_config_path() {
  run containerd --config /etc/containerd/config.toml config dump
  grep -qE "^ *config_path = ['\"]/etc/containerd/certs\.d['\"]" "$WORK/out" ||
    fail "containerd's config_path is not what configure wrote: $(grep config_path "$WORK/out")"
}

# expect_by_ctr HOSTS REGISTRY...: pulls theirs and ours from each, and a push stays here.
pull_by_ctr() {
  "${CTR[@]}" images remove "$1" >/dev/null 2>&1 || true
  run "${CTR[@]}" images pull --hosts-dir "$HOSTS" "$1"
  ctr_digest "$1"
}
expect_by_ctr() {
  local HOSTS=$1 registry names=()
  shift
  for registry in "$@"; do names+=("$registry/acme/app:latest"); done
  pulls_both pull_by_ctr "${names[@]}"
  run skopeo copy "oci:$WORK/pushed:latest" "oci-archive:$WORK/pushed.tar:latest"
  for registry in "$@"; do
    run "${CTR[@]}" images import --index-name "$registry/acme/pushed:1" "$WORK/pushed.tar"
    run "${CTR[@]}" images push --hosts-dir "$HOSTS" ${STANDIN_LOGIN:+--user "$STANDIN_LOGIN"} \
      "$registry/acme/pushed:1"
    expect_captured "$registry/acme/pushed:1" "$(ctr_digest "$registry/acme/pushed:1")"
  done
}
