# The server with the CUDA module: built in one stage, run in another that has the run-time libraries, the
# two programs, the module and the one CUDA library that it needs. Without a GPU it serves on the CPU.
#   docker build -f docker/cuda.Dockerfile -t sliminfer-server:cuda .
#   docker run --gpus all -p 50051:50051 -v ./models:/models:ro sliminfer-server:cuda
FROM debian:bookworm-slim AS build
WORKDIR /src
COPY deploy/packages.sh deploy/packages.sh
RUN bash -c 'source deploy/packages.sh && slim_install "${slim_build_packages[@]}"' \
    && rm -rf /var/lib/apt/lists/*
# What the module is built with and tested against, by NVIDIA from PyPI: compiler (three parts), headers, static
# runtime, cuBLASLt. They need a driver of the 580 series or later.
ARG CUDA_WHEELS="nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96 nvidia-cublas==13.1.0.3"
# The wheels lack names that compiler and linker look for. The last stage gets the one library that the module loads.
RUN python3 -m pip install --quiet --no-cache-dir --no-deps --only-binary=:all: --target /opt ${CUDA_WHEELS} \
    && cd /opt/nvidia/cu13 && ln -s lib lib64 && ln -s libcublasLt.so.13 lib/libcublasLt.so \
    && mkdir -p targets/x86_64-linux && ln -s ../../include ../../lib targets/x86_64-linux/ \
    && mkdir /cuda && cp lib/libcublasLt.so.13 /cuda/
ARG ARCHITECTURES="80-real;86-real;89-real;90-real;100-real;120"
COPY . .
RUN CUDA_PATH=/opt/nvidia/cu13 cmake --preset release -DSLIM_BUILD_TESTS=OFF -DSLIM_CUDA=ON \
      "-DSLIM_CUDA_ARCHITECTURES=${ARCHITECTURES}" \
    && cmake --build build --target sliminfer-server sliminfer sliminfer_cuda \
    && strip build/bin/sliminfer-server build/bin/sliminfer build/bin/libsliminfer_cuda.so

FROM debian:bookworm-slim
COPY deploy/packages.sh /tmp/packages.sh
RUN bash -c 'source /tmp/packages.sh && slim_install "${slim_run_packages[@]}"' \
    && rm -rf /tmp/packages.sh /var/lib/apt/lists/* /var/cache/apt/*.bin
COPY --from=build /cuda/ /usr/local/lib/
RUN ldconfig
COPY --from=build /src/build/bin/sliminfer-server /src/build/bin/sliminfer \
     /src/build/bin/libsliminfer_cuda.so /usr/local/bin/
COPY LICENSE /usr/share/doc/sliminfer-server/
USER 65532:65532
EXPOSE 50051 9464
# What the container runtime has to hand in from the host's driver.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Inside a container the loopback address reaches nobody; who may reach these ports is decided by the
# ports that are published and the proxy in front.
ENV SLIMINFER_LISTEN=0.0.0.0:50051 SLIMINFER_HTTP_LISTEN=0.0.0.0:9464 \
    SLIMINFER_INSECURE_WILDCARD=true SLIMINFER_LOG_FORMAT=json \
    SLIMINFER_MODEL=/models/SmolLM2-135M-Instruct.Q4_1.gguf
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["sliminfer", "--address", "127.0.0.1:50051", "--timeout", "2", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sliminfer-server"]
