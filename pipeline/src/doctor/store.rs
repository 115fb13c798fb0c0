//! An object store: can it be reached, with which credentials, and does it support what
//! publishing needs.

use std::future::Future;
use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::Check;
use crate::stream::{Place, resolve};

/// A store that has not answered by then counts as unreachable. The library's own patience is
/// minutes, for transfers that are under way.
const PATIENCE: Duration = Duration::from_secs(20);
/// Put and removed again, to see whether two writers would notice each other.
const PROBE: &str = ".hqseg-doctor";

/// Checks the store of `location`; with `write`, that it can be published to.
pub(super) fn checks(location: &str, write: bool) -> Vec<Check> {
    let mut checks: Vec<Check> = credentials(location).into_iter().collect();
    let place = match resolve(location, &[]) {
        Ok(place) => place,
        Err(error) => {
            checks.push(Check::error("store", error.to_string()));
            return checks;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            checks.push(Check::error("store", format!("cannot start a runtime: {error}")));
            return checks;
        }
    };
    checks.push(runtime.block_on(reachable(&place)));
    if write {
        checks.push(runtime.block_on(conditional_put(&*place.store, &place.base)));
    }
    checks
}

/// Says which variables of the environment are set; never their values.
fn credentials(location: &str) -> Option<Check> {
    let (_, scheme_names) = SCHEMES
        .iter()
        .find(|(schemes, _)| schemes.iter().any(|scheme| location.starts_with(scheme)))?;
    let found: Vec<&str> =
        scheme_names.iter().copied().filter(|name| std::env::var_os(name).is_some()).collect();
    Some(if found.is_empty() {
        Check::warning(
            "credentials",
            format!(
                "none of {} is set: only public data, or a machine with a role of its own, works \
                 without",
                scheme_names.join(", ")
            ),
        )
    } else {
        Check::ok("credentials", format!("from {}", found.join(", ")))
    })
}

/// URL schemes, and the variables by which their credentials are given.
const SCHEMES: [(&[&str], &[&str]); 3] = [
    (
        &["s3://", "s3a://"],
        &[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        ],
    ),
    (
        &["gs://"],
        &["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"],
    ),
    (
        &["az://", "azure://", "abfs://", "abfss://", "adl://"],
        &[
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_CLIENT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
        ],
    ),
];

async fn reachable(place: &Place) -> Check {
    let key = place.base.clone().join(crate::manifest::MANIFEST_FILE);
    match in_time(place.store.head(&key)).await {
        // An empty place answers too.
        Ok(Ok(_) | Err(object_store::Error::NotFound { .. })) => {
            Check::ok("store", format!("{} answers", place.name))
        }
        Ok(Err(error)) => Check::error(
            "store",
            format!("{}: {error}: look at the address, the credentials and the region", place.name),
        ),
        Err(late) => Check::error("store", format!("{}: {late}", place.name)),
    }
}

async fn conditional_put(store: &dyn ObjectStore, base: &Key) -> Check {
    let name = "conditional put";
    let key = base.clone().join(PROBE);
    let put = || {
        let create = PutOptions::from(PutMode::Create);
        in_time(store.put_opts(&key, PutPayload::from_static(b"probe"), create))
    };
    // Left by one that was stopped.
    let _absent = in_time(store.delete(&key)).await;
    let first = put().await;
    let second = put().await;
    let _absent = in_time(store.delete(&key)).await;
    match (first, second) {
        (Ok(Ok(_)), Ok(Err(object_store::Error::AlreadyExists { .. }))) => {
            Check::ok(name, "supported: two builds cannot publish over each other")
        }
        (Ok(Ok(_)), _) => Check::warning(
            name,
            "not supported by this store: see to it that only one build writes there",
        ),
        (Ok(Err(object_store::Error::NotImplemented { .. })), _) => Check::warning(
            name,
            "not supported by this store: see to it that only one build writes there",
        ),
        (Ok(Err(error)), _) => {
            Check::error(name, format!("cannot write: {error}: look at the permissions"))
        }
        (Err(late), _) => Check::error(name, late),
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let late = |_| format!("no answer in {} s: look at the address", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, work).await.map_err(late)
}
