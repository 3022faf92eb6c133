# The detector service: the only image that holds ultralytics (AGPL-3.0).
# Build from the repository root: docker build -f deploy/detector.Dockerfile -t stal-detector .
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
RUN pip install --no-cache-dir --constraint constraints.txt '.[detector,onnx]'

FROM python:3.11-slim-bookworm
# opencv, which ultralytics imports, needs these two. Not pinned: Debian's mirror keeps only the latest fix of a release,
# so that a pinned version makes the build fail the day after.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --home-dir /var/lib/stal --uid 10001 stal
COPY --from=build /opt/stal /opt/stal
ENV PATH=/opt/stal/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/stal
USER 10001
EXPOSE 50051 9051
ENTRYPOINT ["stal-cli", "serve", "detector"]
# --insecure: for a network that the container host keeps to itself; elsewhere give TLS and a token (docs/security.md).
CMD ["--weights", "/models/detector.pt", "--host", "0.0.0.0", "--port", "50051", \
     "--insecure", "--data-root", "/data", "--metrics-port", "9051", "--log-format", "json"]
