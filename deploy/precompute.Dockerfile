# Precompute, a job and no service: both backbones over a split, into the store.
# Build from the repository root: docker build -f deploy/precompute.Dockerfile -t stal-precompute .
# Without a GPU add --build-arg PIP_EXTRA_INDEX_URL=..., a place with PyTorch's smaller CPU wheels; pip reads it by itself.
FROM python:3.11-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python3 -P -m venv /opt/stal
ENV PATH=/opt/stal/bin:$PATH
WORKDIR /src
# PyTorch is most of the image and changes least.
COPY constraints.txt .
RUN pip install --no-cache-dir --constraint constraints.txt torch torchvision
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[precompute,s3]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --home-dir /var/lib/stal --uid 10001 stal
COPY --from=build /opt/stal /opt/stal
ENV PATH=/opt/stal/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/stal
USER 10001
ENTRYPOINT ["stal-cli", "precompute"]
CMD ["--help"]
