//! x
use aya::{EbpfLoader, programs::*, Btf};
fn main() {
    let t = std::time::Instant::now();
    let rss = || std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM")).collect::<Vec<_>>().join(" ");
    println!("{}", rss());
    let mut l = EbpfLoader::new();
    println!("new {:?} {}", t.elapsed(), rss());
    let mut e = l.btf(None).load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tocsin-ebpf"))).unwrap();
    println!("load {:?} {}", t.elapsed(), rss());
    for (n, p) in e.programs() { println!("{n} {:?}", p.prog_type()); }
    for (n, _) in e.maps() { println!("{n}"); }
    let btf = Btf::from_sys_fs().unwrap();
    println!("btf {:?} {}", t.elapsed(), rss());
    let p: &mut FExit = e.program_mut("reconfigure_super").unwrap().try_into().unwrap();
    println!("{:?}", p.load("reconfigure_super", &btf));
    println!("{:?}", p.attach());
    drop(btf);
    println!("attach {:?} {}", t.elapsed(), rss());
    let p: &mut TracePoint = e.program_mut("block_rq_error").unwrap().try_into().unwrap();
    println!("{:?}", p.load());
    println!("attach {:?} {}", t.elapsed(), rss());
    std::thread::sleep(std::time::Duration::from_secs(3));
}
