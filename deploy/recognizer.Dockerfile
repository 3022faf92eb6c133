# The recognizer service: training and scoring on cached features.
# Build from the repository root: docker build -f deploy/recognizer.Dockerfile -t stal-recognizer .
FROM python:3.11-slim
WORKDIR /opt/stal
COPY . .
RUN pip install --no-cache-dir --constraint constraints.txt '.[recognizer]' \
    && useradd --create-home stal
USER stal
EXPOSE 50052 9052
ENTRYPOINT ["stal-cli", "serve", "recognizer"]
CMD ["--store", "/store", "--host", "0.0.0.0", "--port", "50052", "--insecure", "--metrics-port", "9052", \
     "--cancel-jobs"]
