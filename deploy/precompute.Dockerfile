# Precompute, a job and no service: both backbones over a split, into the store.
# Build from the repository root: docker build -f deploy/precompute.Dockerfile -t stal-precompute .
# Without a GPU add --build-arg TORCH_INDEX=URL of a package index with PyTorch's smaller CPU wheels.
FROM python:3.11-slim-bookworm AS build
ARG TORCH_INDEX=""
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python3 -m venv /opt/stal
ENV PATH=/opt/stal/bin:$PATH
WORKDIR /src
# PyTorch is most of the image and changes least.
COPY constraints.txt .
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --constraint constraints.txt torch torchvision
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[precompute]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 10001 stal
COPY --from=build /opt/stal /opt/stal
ENV PATH=/opt/stal/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /home/stal
USER 10001
ENTRYPOINT ["stal-cli", "precompute"]
CMD ["--help"]
