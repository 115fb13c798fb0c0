//! Compiles the C++ bridge; NCCL goes in where the CUDA set is complete.

use locate::Libtorch;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cpp");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rustc-check-cfg=cfg(nccl)");
    let libtorch = match Libtorch::from_env() {
        Ok(libtorch) => libtorch,
        Err(error) => {
            println!("cargo::error={error}");
            return;
        }
    };
    for file in libtorch.watched_files() {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    compile(&libtorch);

    println!("cargo::rustc-link-search=native={}", libtorch.lib().display());
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
    if libtorch.nccl_includes().is_some() {
        println!("cargo::rustc-cfg=nccl");
        println!("cargo::rustc-link-lib=torch_cuda");
        println!("cargo::rustc-link-lib=c10_cuda");
    }
    // For this package's own tests; the path torch-sys found, which is absolute.
    if let Ok(lib) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}

fn compile(libtorch: &Libtorch) {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .opt_level(1)
        .warnings(false)
        .define("USE_C10D_GLOO", None)
        .include("cpp")
        .files(["cpp/bridge.cpp", "cpp/device.cpp", "cpp/group_gloo.cpp", "cpp/packed.cpp"]);
    for folder in libtorch.includes() {
        build.flag(format!("-isystem{}", folder.display()));
    }
    if let Some(folders) = libtorch.nccl_includes() {
        println!("cargo::rerun-if-changed={}", libtorch.lib().join("libtorch_cuda.so").display());
        build.define("USE_C10D_NCCL", None).file("cpp/group_nccl.cpp");
        for folder in folders {
            build.flag(format!("-isystem{}", folder.display()));
        }
    }
    build.compile("c10d_bridge");
}
