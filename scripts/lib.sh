# shellcheck shell=bash
# What the stages with real clients share: servers started and stopped by hand, images made on the spot, assertions.
# Sourced by scripts/e2e/* and scripts/conformance. scripts/test sets WORK, a fresh directory with a short name (it
# holds Unix sockets, whose paths end at 108 bytes) that it prints when the stage fails, and STANDIN, the binary.
set -Eeuo pipefail
: "${WORK:?run me through scripts/test}" "${STANDIN:?run me through scripts/test}"
trap 'echo "failed at ${BASH_SOURCE[0]}:$LINENO: $BASH_COMMAND" >&2' ERR
trap stop_all EXIT
trap 'exit 143' TERM

# The distribution's clients before any other, and nothing of the caller's that would send them elsewhere.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
unset DOCKER_HOST DOCKER_CONTEXT CONTAINERS_REGISTRIES_CONF CONTAINERS_STORAGE_CONF
export HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/run DOCKER_CONFIG=$WORK/docker-cli REGISTRY_AUTH_FILE=$WORK/auth.json
mkdir -p "$HOME/.config/containers" "$XDG_RUNTIME_DIR" "$DOCKER_CONFIG"
echo '{}' >"$REGISTRY_AUTH_FILE"

PIDS=()
declare -A PID=() UPSTREAM=()

# --- what a stage says and asserts --------------------------------------------------------------------------------

# step TEXT: what is proved next.
step() { echo "  - $*"; }

# fail TEXT: ends the stage.
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

# expect WHAT ACTUAL WANTED
expect() { [ "$2" = "$3" ] || fail "$1 is '$2', expected '$3'"; }

# run COMMAND...: must succeed; its output is in $WORK/out, shown only when it does not.
run() {
  "$@" >"$WORK/out" 2>&1 && return
  cat "$WORK/out" >&2
  fail "exit status of: $*"
}

# refused PATTERN COMMAND...: must fail, and say something that matches PATTERN.
refused() {
  local pattern=$1
  shift
  if timeout 60 "$@" >"$WORK/out" 2>&1; then
    cat "$WORK/out" >&2
    fail "this should have been refused: $*"
  fi
  grep -qE -- "$pattern" "$WORK/out" && return
  cat "$WORK/out" >&2
  fail "the refusal does not match '$pattern': $*"
}

# await SECONDS WHAT COMMAND...: until COMMAND succeeds.
await() {
  local tries=$(($1 * 50)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "waited in vain for $what"
    sleep 0.02
  done
}

# --- servers ------------------------------------------------------------------------------------------------------

# start NAME COMMAND...: in the background, as ${PID[NAME]}; standard output in $WORK/NAME.out, standard error in
# $WORK/NAME.log.
start() {
  local name=$1
  shift
  # Appending, so that a log may be truncated under its writer.
  "$@" >>"$WORK/$name.out" 2>>"$WORK/$name.log" </dev/null &
  PIDS+=($!)
  # shellcheck disable=SC2034  # read by the stages
  PID[$name]=$!
}

# running PID: a process that is no zombie (to which kill -0 succeeds as well).
running() { grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }

# stop PID: what start started: TERM, and KILL if it is still there after ten seconds.
stop() {
  local index tries=200
  for index in "${!PIDS[@]}"; do
    [ "${PIDS[index]}" != "$1" ] || unset "PIDS[index]"
  done
  kill -TERM "$1" 2>/dev/null || return 0
  while running "$1" && [ $((tries -= 1)) -gt 0 ]; do sleep 0.05; done
  ! running "$1" || kill -KILL "$1"
  wait "$1" 2>/dev/null || true
}

# stop_all: newest first.
stop_all() {
  while [ ${#PIDS[@]} -gt 0 ]; do stop "${PIDS[-1]}"; done
  # A container's network namespace stays bind-mounted below dockerd's directory.
  awk -v under="$WORK/" 'index($5, under) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mounted; do
    umount -l "$mounted"
  done
}

# start_standin OPTION...: with no upstream but those that the options name. Sets PORT and CA (the file to trust).
# shellcheck disable=SC2034  # read by the stages
start_standin() {
  # The ready line of one that ran before is not this one's.
  rm -f "$WORK/standin.out"
  start standin "$STANDIN" serve --listen 127.0.0.1:0 --data "$WORK/data" --state "$WORK/state" \
    --no-default-registries "$@"
  local ready='^standin ready http://127\.0\.0\.1:([0-9]+) https://127\.0\.0\.1:[0-9]+ ca=(.+)$'
  await 10 "standin's ready line" grep -qE "$ready" "$WORK/standin.out"
  PORT=$(sed -nE "s|$ready|\1|p" "$WORK/standin.out")
  CA=$(sed -nE "s|$ready|\2|p" "$WORK/standin.out")
}

# start_upstream NAME [SETTING=VALUE...]: Debian's docker-registry in the part of a public registry, with further
# settings as it takes them from its environment (REGISTRY_AUTH=token); its access log is $WORK/NAME.out.
# ${UPSTREAM[NAME]} is its host:port.
start_upstream() {
  cat >"$WORK/$1.yml" <<YAML
version: 0.1
log: {level: info, formatter: text}
storage: {filesystem: {rootdirectory: $WORK/$1}}
http: {addr: "127.0.0.1:0", secret: shared-by-no-one}
YAML
  start "$1" env -i "PATH=$PATH" "${@:2}" docker-registry serve "$WORK/$1.yml"
  local listening='.*msg="listening on 127\.0\.0\.1:([0-9]+)[",].*'
  await 10 "$1, the upstream" grep -qE "$listening" "$WORK/$1.log"
  UPSTREAM[$1]=127.0.0.1:$(sed -nE "s|$listening|\1|p" "$WORK/$1.log")
}

# start_rough NAME URL OPTION...: scripts/rough-upstream before the registry at URL; its access log is $WORK/NAME.out.
# ${UPSTREAM[NAME]} is its host:port.
start_rough() {
  local name=$1 url=$2
  shift 2
  start "$name" "${BASH_SOURCE[0]%/*}/rough-upstream" "$@" "$url"
  await 10 "$name, the rough upstream" grep -q '^listening on ' "$WORK/$name.log"
  UPSTREAM[$name]=$(sed -n 's|^listening on https*://||p' "$WORK/$name.log")
}

# upstream_log NAME: what NAME was asked since the last forget_upstream, one line "METHOD PATH STATUS" per request.
# A line is written after its answer, so a request of ours goes last and its line is awaited.
upstream_log() {
  local mark
  mark="/v2/?mark=$(date +%s%N)"
  curl -fsS -o "$WORK/mark" "http://${UPSTREAM[$1]}$mark"
  await 5 "$1's access log" grep -qF "$mark " "$WORK/$1.out"
  sed -nE '/\?mark=/d; s|^[^"]*"([A-Z]+) ([^ ]+) HTTP/[0-9.]+" ([0-9]+) .*|\1 \2 \3|p' "$WORK/$1.out"
}
forget_upstream() {
  upstream_log "$1" >/dev/null
  : >"$WORK/$1.out"
}

# expect_unasked NAME: no request at all since forget_upstream.
expect_unasked() {
  local asked
  asked=$(upstream_log "$1")
  expect "what $1 was asked" "$asked" ''
}

# expect_fetched_once NAME LAYOUT: since forget_upstream, NAME sent the image's manifest, by tag or digest, and each of
# its blobs exactly once, and nothing else.
expect_fetched_once() {
  local asked sent manifest
  asked=$(upstream_log "$1")
  sent=$(grep -E '^GET /v2/.+ 20[06]$' <<<"$asked" || true)
  manifest=$(layout_manifest "$2")
  expect "how often $1 sent a manifest" "$(grep -cE '/manifests/[^/]+ 200$' <<<"$sent" || true)" 1
  expect "the blobs that $1 sent" "$(sed -nE 's|.*/blobs/([^ ]+) 20[06]$|\1|p' <<<"$sent" | sort)" \
    "$(layout_digests "$2" | grep -vF "$manifest")"
}

# start_dockerd OPTION...: docker finds it through DOCKER_HOST. It takes loopback registries without TLS. Its own image
# store in every version, as in 20.10: in containerd's, an image's ID is not its config's digest.
start_dockerd() {
  echo '{"features":{"containerd-snapshotter":false}}' >"$WORK/daemon.json"
  export DOCKER_HOST=unix://$WORK/docker.sock
  start dockerd dockerd --config-file "$WORK/daemon.json" --data-root "$WORK/docker" --exec-root "$WORK/exec" \
    -p "$WORK/docker.pid" -H "$DOCKER_HOST" --iptables=false --ip6tables=false --bridge=none "$@"
  await 30 dockerd docker version
}

# start_containerd: ctr finds it through "${CTR[@]}"; ctr_digest NAME is what it calls the digest of the image NAME.
start_containerd() {
  cat >"$WORK/containerd.toml" <<TOML
version = 2
root = "$WORK/containerd"
state = "$WORK/containerd.run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$WORK/containerd.sock"
TOML
  CTR=(ctr --address "$WORK/containerd.sock")
  start containerd containerd --config "$WORK/containerd.toml"
  await 30 containerd "${CTR[@]}" version
}
ctr_digest() { "${CTR[@]}" images list "name==$1" | grep -oE 'sha256:[0-9a-f]{64}'; }

# --- images -------------------------------------------------------------------------------------------------------

# make_image LAYOUT [BYTES...]: an OCI layout of one image that is like no other, tagged latest. It has a layer of about
# each of these sizes, or two.
make_image() {
  local layout=$1 size sizes=("${@:2}") diff_id descriptors=() diff_ids=() config
  [ ${#sizes[@]} -gt 0 ] || sizes=(500000 1000000)
  mkdir -p "$layout/blobs/sha256" "$WORK/rootfs"
  for size in "${sizes[@]}"; do
    head -c "$size" /dev/urandom >"$WORK/rootfs/data"
    tar -C "$WORK/rootfs" -cf "$WORK/layer.tar" data
    diff_id=$(sha256sum <"$WORK/layer.tar")
    gzip -nc "$WORK/layer.tar" >"$WORK/blob"
    diff_ids+=("\"sha256:${diff_id%% *}\"")
    descriptors+=("$(put_blob "$layout" application/vnd.oci.image.layer.v1.tar+gzip)")
  done
  printf '{"architecture":"%s","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')" "$(IFS=, && echo "${diff_ids[*]}")" >"$WORK/blob"
  config=$(put_blob "$layout" application/vnd.oci.image.config.v1+json)
  printf '{"schemaVersion":2,"mediaType":"%s","config":%s,"layers":[%s]}' \
    application/vnd.oci.image.manifest.v1+json "$config" "$(IFS=, && echo "${descriptors[*]}")" >"$WORK/blob"
  printf '{"schemaVersion":2,"manifests":[%s]}' "$(put_blob "$layout" application/vnd.oci.image.manifest.v1+json |
    sed 's/}$/,"annotations":{"org.opencontainers.image.ref.name":"latest"}}/')" >"$layout/index.json"
  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
}

# put_blob LAYOUT MEDIA_TYPE: moves $WORK/blob into LAYOUT and prints its descriptor.
put_blob() {
  local hex
  hex=$(sha256sum <"$WORK/blob")
  hex=${hex%% *}
  printf '{"mediaType":"%s","digest":"sha256:%s","size":%s}' "$2" "$hex" "$(stat -c %s "$WORK/blob")"
  mv "$WORK/blob" "$1/blobs/sha256/$hex"
}

# layout_manifest LAYOUT: the digest that the only entry of its index.json names; layout_config, that image's config.
layout_manifest() { grep -oE 'sha256:[0-9a-f]{64}' "$1/index.json"; }
layout_config() {
  local manifest
  manifest=$(layout_manifest "$1")
  grep -oE 'sha256:[0-9a-f]{64}' "$1/blobs/sha256/${manifest#sha256:}" | head -n 1
}

# layout_digests LAYOUT: of all its blobs, manifests included.
layout_digests() { find "$1/blobs/sha256" -type f -printf 'sha256:%f\n' | sort; }

# expect_same_layout ACTUAL WANTED: the same manifest, and byte for byte the same blobs.
expect_same_layout() {
  expect "the digest in $1" "$(layout_manifest "$1")" "$(layout_manifest "$2")"
  diff -r "$1/blobs" "$2/blobs" >&2 || fail "the blobs of $1 and $2 differ"
}

# docker_digest NAME: what docker calls the digest of the image NAME; docker_id, its ID (the config's digest).
docker_digest() {
  docker image inspect -f '{{range .RepoDigests}}{{println .}}{{end}}' "$1" | sed -n 's/.*@//p' | sort -u
}
docker_id() { docker image inspect -f '{{.Id}}' "$1"; }
