# smpr as an image: the command, and the checkout that `smpr reproduce` needs.
#
#   docker build -t smpr .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/here" smpr predict holiday.jpg --out drawn
#   mkdir -p out && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/out:/out" --shm-size 1g smpr reproduce table1 --scale mini
#
# The first draws into ./drawn; the second is `make reproduce`, its tables and records are in ./out/figures, its runs in ./out/runs.
# Add `--gpus all` where there is a GPU. pip takes PyTorch's build with CUDA, several GB; for the smaller one without, name an index that
# has it: --build-arg PIP_EXTRA_INDEX_URL=... .  Records name the commit, so build from a clone, not from an unpacked archive.
#
# Nobody has built this image yet: the project's machines have no container engine.
FROM python:3.12-slim

RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory /smpr

WORKDIR /smpr
COPY . .
ARG PIP_EXTRA_INDEX_URL=""
RUN pip install --no-cache-dir -e '.[video,experiments]'

# Any user may run it: caches of matplotlib and Jupyter go to /tmp, results to what is mounted.
ENV HOME=/tmp USER=smpr SMPR_FIGURES=/out/figures SMPR_RUNS=/out/runs PYTHONDONTWRITEBYTECODE=1
RUN mkdir -m 1777 /here /out
USER 1000:1000
WORKDIR /here
ENTRYPOINT ["smpr"]
CMD ["--help"]
