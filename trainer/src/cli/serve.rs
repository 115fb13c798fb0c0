//! `hqsam serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use tch::Device;
use trainer::run;
use trainer::serve::{ServeError, ServeOptions, serve};

use super::model_arguments::ModelArguments;

#[derive(Args)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder of the run whose curves and pictures are shown. Default: the run that the model is of,
    /// where that lies in a folder.
    #[arg(long)]
    run: Option<PathBuf>,
    /// Port; 0 takes a free one.
    #[arg(long, default_value_t = 7860)]
    port: u16,
    /// Address to listen on. Others than loopback let everybody on the network in.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Name under which the page may be opened, besides `localhost` and addresses.
    #[arg(long = "allow-host", value_name = "NAME")]
    allowed_hosts: Vec<String>,
    /// Largest picture that may be uploaded, in MiB.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    max_upload_mib: u16,
    /// Most pixels of such a picture, in millions.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    max_megapixels: u16,
}

pub(crate) fn run(arguments: &ServeArguments, device: Device) -> Result<()> {
    let is_ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The second signal ends the process at once; the first lets the last answer out.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&is_ending))?;
        signal_hook::flag::register(signal, Arc::clone(&is_ending))?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let (end, stop) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            // Nobody listens when the server has ended by itself.
            let _ = end.send(());
        }
    });
    // Before the model is read, which takes a while.
    if let Some(run) = arguments.run.as_ref().filter(|run| !run.is_dir()) {
        return Err(ServeError::Run(run.clone()).into());
    }
    let opened = arguments.model.open(device)?;
    if arguments.run.is_none() && run::store_url(&arguments.model.path).is_some() {
        tracing::info!(
            "curves and pictures are shown of runs in folders only: name the folder of the run's logs \
             with --run"
        );
    }
    let options = ServeOptions {
        address: SocketAddr::new(arguments.bind, arguments.port),
        allowed_hosts: arguments.allowed_hosts.clone(),
        run: arguments.run.clone().or(opened.folder),
        max_upload_bytes: usize::from(arguments.max_upload_mib) << 20,
        max_pixels: u64::from(arguments.max_megapixels) * 1_000_000,
    };
    serve(opened.model, opened.origin, options, stop, |address| {
        tracing::info!("open http://{address} (Ctrl-C ends it)");
    })?;
    Ok(())
}
