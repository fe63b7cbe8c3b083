# Tocsin's agent as an image that holds one file.
#
#   docker build -t tocsin .
#
# The builder needs nothing but Debian 12: its rustc-web carries the core library for BPF, and its LLVM
# is the one of that compiler (bpf-linker must have the same).
FROM debian:12 AS builder
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates g++ rustc-web cargo-web libstd-rust-web-dev-bpf llvm-22-dev libzstd-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
RUN LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \
      --no-default-features --features llvm-22 --locked
WORKDIR /src
COPY . .
# With the target named, the flags reach the agent alone: a procedural macro cannot be static. Packed relocations
# are a tenth less to ship; this Debian's glibc (2.36) is the first that can start with them.
RUN triple="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" \
      cargo build --locked --release --package tocsin --bin tocsin --target "$triple" \
 && mv "target/$triple/release/tocsin" /tocsin

FROM scratch
COPY --from=builder /tocsin /tocsin
# The health endpoint for load balancers; the admin endpoint for Prometheus and people.
EXPOSE 25001 25002 25003
ENTRYPOINT ["/tocsin"]
CMD ["agent"]
