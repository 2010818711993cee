# The trainer in a container.
#   docker build -t hiphop-train .                               on the CPU
#   docker build --build-arg DEVICE=cuda -t hiphop-train:cuda .  on NVIDIA GPUs (run it with --gpus all)
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/workspace" hiphop-train debug=fast
# Runs are written to /workspace. The other commands: docker run --entrypoint hiphop-eval ...
#
# The build runs one script only, so it is tested without Docker by
#   HIPHOP_VENV=/tmp/container HIPHOP_DEVICE=cpu scripts/install.sh --wheel && (cd /tmp && container/bin/hiphop-train --help)

FROM python:3.11-slim AS build
ARG DEVICE=cpu
COPY . /src
RUN HIPHOP_DEVICE=$DEVICE HIPHOP_VENV=/opt/hiphop-train PIP_NO_CACHE_DIR=1 /src/scripts/install.sh --wheel

FROM python:3.11-slim
# trainer.compile needs a C compiler.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/hiphop-train /opt/hiphop-train
# HOME: under --user there is none, and matplotlib, wandb and torch need one for their caches.
ENV PATH=/opt/hiphop-train/bin:$PATH HOME=/tmp \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home hiphop && install -d -o hiphop -g hiphop /workspace
USER hiphop
WORKDIR /workspace
ENTRYPOINT ["hiphop-train"]
