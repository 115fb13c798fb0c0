//! Checks libtorch before anything that needs it is compiled. This package has no
//! dependencies, so its answer, one readable line, comes before torch-sys fails
//! with a C++ compiler's opinion about a missing header.

#[path = "src/lib.rs"]
#[expect(unreachable_pub, dead_code, reason = "the library's own source, used in part")]
mod locate;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/lib.rs");
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    match locate::Libtorch::from_env() {
        Ok(libtorch) => {
            for file in libtorch.watched_files() {
                println!("cargo::rerun-if-changed={}", file.display());
            }
        }
        Err(error) => {
            // An absent path counts as changed: the check runs again after set-up.
            println!("cargo::rerun-if-changed=absent");
            println!("cargo::error={error}");
        }
    }
}
