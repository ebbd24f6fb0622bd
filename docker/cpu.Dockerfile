# The CPU server: built in one stage, run in another that has the run-time libraries only.
#   docker build -f docker/cpu.Dockerfile -t sliminfer-server:cpu .
#   docker run -p 50051:50051 -v ./models:/models:ro sliminfer-server:cpu
FROM debian:bookworm-slim AS build
WORKDIR /src
COPY deploy/packages.sh deploy/packages.sh
RUN bash -c 'source deploy/packages.sh && slim_install "${slim_build_packages[@]}"' \
    && rm -rf /var/lib/apt/lists/*
COPY . .
RUN cmake --preset release -DSLIM_BUILD_TESTS=OFF \
    && cmake --build build --target sliminfer-server sliminfer \
    && strip build/bin/sliminfer-server build/bin/sliminfer

FROM debian:bookworm-slim
COPY deploy/packages.sh /tmp/packages.sh
RUN bash -c 'source /tmp/packages.sh && slim_install "${slim_run_packages[@]}"' \
    && rm -rf /tmp/packages.sh /var/lib/apt/lists/* /var/cache/apt/*.bin
COPY --from=build /src/build/bin/sliminfer-server /src/build/bin/sliminfer /usr/local/bin/
COPY LICENSE /usr/share/doc/sliminfer-server/
USER 65532:65532
EXPOSE 50051 9464
# Inside a container the loopback address reaches nobody; who may reach these ports is decided by the
# ports that are published and the proxy in front.
ENV SLIMINFER_LISTEN=0.0.0.0:50051 SLIMINFER_HTTP_LISTEN=0.0.0.0:9464 \
    SLIMINFER_INSECURE_WILDCARD=true SLIMINFER_LOG_FORMAT=json \
    SLIMINFER_MODEL=/models/SmolLM2-135M-Instruct.Q4_1.gguf
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["sliminfer", "--address", "127.0.0.1:50051", "--timeout", "2", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["sliminfer-server"]
