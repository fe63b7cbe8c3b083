//! x
fn main() {
    let _ = aya_build::build_ebpf([aya_build::Package { name: "tocsin-ebpf", root_dir: "../agent-ebpf", no_default_features: false, features: &[] }], aya_build::Toolchain::Custom("tocsin-bpf")).map_err(|e| {eprintln!("{e:?}"); std::process::exit(1)});
}
