# Two commands: `make demo` and `make test`. Both install what is missing first (`make deps`).
# Developers use the presets directly: cmake --preset debug && cmake --build --preset debug.

PRESET ?= release
BUILD := build/$(PRESET)
SAMPLE := docs/samples/smollm2-135m-instruct.safetensors
FUZZ_SECONDS ?= 300

# Everything that the build and the tests need, by its Debian and Ubuntu name. Optional: a CUDA toolkit.
PACKAGES := g++ make cmake ninja-build ccache python3 libcli11-dev libfmt-dev libeigen3-dev libboost-math-dev \
            doctest-dev nlohmann-json3-dev libxxhash-dev libpcre2-dev libutf8proc-dev

.PHONY: demo test build deps cuda-all fuzz format clean

demo: build
	$(BUILD)/tq verify --kv $(SAMPLE)

test: deps
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET)
	$(BUILD)/tq_tests --test-case='every CPU target writes the same bytes'  # prints which targets ran
	ctest --preset $(PRESET)

build: deps
	cmake --preset $(PRESET)
	cmake --build --preset $(PRESET) --target tq

# Installs only what is missing, and says what.
deps:
	@command -v dpkg-query >/dev/null || \
	  { echo "make deps knows Debian and Ubuntu; elsewhere install: $(PACKAGES)" >&2; exit 0; }; \
	missing=""; \
	for package in $(PACKAGES); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
	  echo "installing:$$missing"; \
	  sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	  $$sudo apt-get update -q && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; \
	fi

# The kernels for every GPU architecture that the toolkit knows.
cuda-all:
	env -u CUDAARCHS cmake -B build/cuda-all -G Ninja -DCMAKE_BUILD_TYPE=Release -DTQ_CUDA=ON
	cmake --build build/cuda-all --target tq gpu_parity gpu_calls gpu_forward

# Long fuzzing with clang's libFuzzer (packages clang and libclang-rt-dev); the test suite runs a short one.
fuzz:
	cmake --preset fuzz
	cmake --build --preset fuzz --target fuzz_safetensors fuzz_kv_file fuzz_tokenizer
	for fuzzer in fuzz_safetensors fuzz_kv_file fuzz_tokenizer; do \
	  mkdir -p build/fuzz/corpus-$$fuzzer && \
	  build/fuzz/$$fuzzer -max_total_time=$(FUZZ_SECONDS) -max_len=65536 build/fuzz/corpus-$$fuzzer tests/golden tests/fuzz_seeds || exit 1; \
	done

format:
	clang-format -i $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

clean:
	rm -rf build
