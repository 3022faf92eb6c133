# The detector service: the only image that holds ultralytics (AGPL-3.0).
# Build from the repository root: docker build -f deploy/detector.Dockerfile -t stal-detector .
FROM python:3.11-slim
# opencv, which ultralytics imports, needs these two.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/stal
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[detector]' \
    && useradd --create-home stal
USER stal
EXPOSE 50051 9051
ENTRYPOINT ["stal-cli", "serve", "detector"]
CMD ["--weights", "/models/detector.pt", "--image-size", "180x320", "--host", "0.0.0.0", "--port", "50051", \
     "--insecure", "--data-root", "/data", "--metrics-port", "9051"]
