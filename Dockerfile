# Two images of this repository.
#
#   docker build --target batch   -t gld-batch .      the command line and the library: many scenes, Ray workers
#   docker build --target comfyui -t gld-comfyui .    a ComfyUI with the plugin, for API workflows
#
#   docker run --gpus all -v $PWD/models:/models -v $PWD/data:/data gld-batch views /data/scenes --models /models --out /data/out
#   docker run --gpus all -v $PWD/models:/data/models/gld -v $PWD/output:/data/output -p 8188:8188 gld-comfyui
#
# The base is Docker's own Python image. torch comes from PyPI with its CUDA libraries, so that the host needs a driver and
# the NVIDIA container toolkit, and no CUDA. Weights are not in the images.

FROM python:3.12-slim AS batch
WORKDIR /opt/gld
COPY pyproject.toml README.md LICENSE ./
COPY gld_core gld_core
RUN pip install --no-cache-dir ".[ray,video]"
WORKDIR /data
ENTRYPOINT ["python", "-m", "gld_core"]

FROM python:3.12-slim AS comfyui
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/gld
COPY . .
# ComfyUI 0.30.0 and its requirements, as the tests have them.
RUN python tests/bootstrap.py setup
RUN mkdir -p /data/custom_nodes && ln -s /opt/gld /data/custom_nodes/gld-novel-views
EXPOSE 8188
ENTRYPOINT [".venv/bin/python", ".cache/comfyui/main.py", "--listen", "0.0.0.0", "--base-directory", "/data"]
