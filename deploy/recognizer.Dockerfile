# The recognizer service: training and scoring on cached features. Its image is the client's, too: all of stal-cli but
# the detector and precompute runs in it.
# Build from the repository root: docker build -f deploy/recognizer.Dockerfile -t stal-recognizer .
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
RUN pip install --no-cache-dir --constraint constraints.txt '.[recognizer,evaluation,s3]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --home-dir /var/lib/stal --uid 10001 stal
COPY --from=build /opt/stal /opt/stal
ENV PATH=/opt/stal/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/stal
USER 10001
EXPOSE 50052 9052
ENTRYPOINT ["stal-cli", "serve", "recognizer"]
# --insecure: for a network that the container host keeps to itself; elsewhere give TLS and a token (docs/security.md).
CMD ["--store", "/store", "--host", "0.0.0.0", "--port", "50052", "--insecure", "--metrics-port", "9052", \
     "--cancel-jobs", "--log-format", "json"]
