# Tocsin's programs as images that each hold one file.
#
#   docker build -t tocsin .                                      the agent
#   docker build -t tocsin-controller --target controller .       the controller
#
# The builders need nothing but Debian 12: its rustc-web carries the core library for BPF, and its LLVM
# is the one of that compiler (bpf-linker must have the same).
FROM debian:12 AS toolchain
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates g++ rustc-web cargo-web \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src

FROM toolchain AS bpf-toolchain
RUN apt-get update \
 && apt-get install -y --no-install-recommends libstd-rust-web-dev-bpf llvm-22-dev libzstd-dev zlib1g-dev \
 && rm -rf /var/lib/apt/lists/*
RUN LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 \
      --no-default-features --features llvm-22 --locked

# Each program is built by the name of its package, since features of shared libraries unify in a build of both. With
# the target named, the flags reach the program alone: a procedural macro cannot be static. Packed relocations are a
# tenth less to ship; this Debian's glibc (2.36) is the first that can start with them.
FROM bpf-toolchain AS build-agent
COPY . .
RUN triple="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" \
      cargo build --locked --release --package tocsin --bin tocsin --target "$triple" \
 && mv "target/$triple/release/tocsin" /tocsin

FROM toolchain AS build-controller
COPY . .
RUN triple="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs" \
      cargo build --locked --release --package tocsin-controller --bin tocsin-controller --target "$triple" \
 && mv "target/$triple/release/tocsin-controller" /tocsin-controller

FROM scratch AS controller
COPY --from=build-controller /tocsin-controller /tocsin-controller
# The heartbeat API and its admin endpoint; the remediation webhook and its admin endpoint.
EXPOSE 8080 25012 9443 25013
# Nobody: it needs no right on its node.
USER 65532:65532
ENTRYPOINT ["/tocsin-controller"]

# The last one is what is built where no target is named.
FROM scratch AS agent
COPY --from=build-agent /tocsin /tocsin
# The health endpoint and the agent-check for load balancers; the admin endpoint for Prometheus and people.
EXPOSE 25001 25002 25003
ENTRYPOINT ["/tocsin"]
CMD ["agent"]
