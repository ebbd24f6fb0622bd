# The server with the CUDA module: built in one stage, run in another that has the run-time libraries, the
# two programs, the module and the one CUDA library that it needs. Without a GPU it serves on the CPU.
#   docker build -f docker/cuda.Dockerfile -t sliminfer-server:cuda .
#   docker run --gpus all -p 50051:50051 -v ./models:/models:ro sliminfer-server:cuda
FROM debian:bookworm-slim AS build
ARG CUDA=13-0
ARG ARCHITECTURES="80-real;86-real;89-real;90-real;100-real;120"
WORKDIR /src
COPY deploy/packages.sh deploy/packages.sh
RUN bash -c 'source deploy/packages.sh && slim_install "${slim_build_packages[@]}" ca-certificates curl'
RUN curl -fsSLo /tmp/keyring.deb \
      https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64/cuda-keyring_1.1-1_all.deb \
    && dpkg -i /tmp/keyring.deb && apt-get update \
    && apt-get install -y --no-install-recommends cuda-nvcc-${CUDA} cuda-cudart-dev-${CUDA} libcublas-dev-${CUDA} \
    && rm -rf /var/lib/apt/lists/* /tmp/keyring.deb
COPY . .
RUN cmake --preset release -DSLIM_BUILD_TESTS=OFF -DSLIM_CUDA=ON "-DSLIM_CUDA_ARCHITECTURES=${ARCHITECTURES}" \
    && cmake --build build --target sliminfer-server sliminfer sliminfer_cuda \
    && strip build/bin/sliminfer-server build/bin/sliminfer build/bin/libsliminfer_cuda.so \
    && mkdir /cuda && cp -L /usr/local/cuda/lib64/libcublasLt.so.13 /cuda/

FROM debian:bookworm-slim
COPY deploy/packages.sh /tmp/packages.sh
RUN bash -c 'source /tmp/packages.sh && slim_install "${slim_run_packages[@]}"' \
    && rm -rf /tmp/packages.sh /var/lib/apt/lists/*
COPY --from=build /cuda/ /usr/local/lib/
RUN ldconfig
COPY --from=build /src/build/bin/sliminfer-server /src/build/bin/sliminfer \
     /src/build/bin/libsliminfer_cuda.so /usr/local/bin/
COPY LICENSE /usr/share/doc/sliminfer-server/
USER 65532:65532
EXPOSE 50051 9464
# What the container runtime has to hand in from the host's driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV SLIMINFER_LISTEN=0.0.0.0:50051 SLIMINFER_HTTP_LISTEN=0.0.0.0:9464 \
    SLIMINFER_INSECURE_WILDCARD=true SLIMINFER_LOG_FORMAT=json \
    SLIMINFER_MODEL=/models/SmolLM2-135M-Instruct.Q4_1.gguf
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["sliminfer", "--address", "127.0.0.1:50051", "--timeout", "2", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sliminfer-server"]
