//! An object store that fails on purpose, before or after the effect, lies, is slow or never answers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::CopyOptions;
use object_store::Error;
use object_store::Extensions;
use object_store::GetOptions;
use object_store::GetResult;
use object_store::GetResultPayload;
use object_store::ListResult;
use object_store::MultipartUpload;
use object_store::ObjectMeta;
use object_store::ObjectStore;
use object_store::PutMultipartOptions;
use object_store::PutOptions;
use object_store::PutPayload;
use object_store::PutResult;
use object_store::RenameOptions;
use object_store::Result;
use object_store::path::Path;

mod plan;

pub(crate) use plan::Chance;
pub(crate) use plan::Damage;
pub(crate) use plan::Gate;
pub(crate) use plan::GetFault;
pub(crate) use plan::Plan;
pub(crate) use plan::PutFault;

/// Wraps a store.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyStore {
    /// Over `inner`; nothing fails until it is told to.
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> FaultyStore {
        FaultyStore { inner, plan: Arc::default() }
    }

    /// Changes what goes wrong from here on.
    pub(crate) fn plan<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        change(&mut self.plan.lock().unwrap())
    }

    async fn hang<T>(&self) -> T {
        self.plan(|plan| plan.hung += 1);
        std::future::pending().await
    }
}

/// By turns what a store's client makes of a server that is too busy, broken or newly strict, once its own retries are spent.
fn failure(turn: usize) -> Error {
    let generic = |source: &str| Error::Generic { store: "faulty", source: source.into() };
    match turn % 5 {
        0 => generic("429 Too Many Requests"),
        1 => generic("500 Internal Server Error"),
        2 => generic("503 Slow Down"),
        3 => Error::Unauthenticated { path: "on purpose".to_owned(), source: "401 Unauthorized".into() },
        _ => Error::PermissionDenied { path: "on purpose".to_owned(), source: "403 Forbidden".into() },
    }
}

fn is_manifest(location: &Path) -> bool {
    location.as_ref().starts_with("manifests/")
}

/// What a get says of an object that is not there.
fn missing(location: &Path) -> Error {
    Error::NotFound { path: location.to_string(), source: "on purpose".into() }
}

/// What the drivers make of 409.
fn conflict(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "409 Conflict".into() }
}

/// And of 412.
fn precondition(location: &Path) -> Error {
    Error::Precondition { path: location.to_string(), source: "412 Precondition Failed".into() }
}

impl std::fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (put, fault, takes, gate) = self.plan(|plan| {
            let put = plan.puts;
            let away = plan.away.then_some(PutFault::Before);
            if is_manifest(location) {
                // By chance it fails, but does not lie: what a manifest that rots costs has tests of its own.
                let chance = plan.chance.as_mut().and_then(Chance::put);
                let chance = chance.filter(|it| !matches!(it, PutFault::Lies(_)));
                let fault = away.or(plan.manifest_fault).or(chance);
                return (put, fault, plan.put_takes, None);
            }
            plan.puts += 1;
            let fault = away.or_else(|| plan.put_faults.get(&put).copied());
            let fault = fault.or_else(|| plan.chance.as_mut()?.put());
            (put, fault, plan.put_takes, plan.gate.clone())
        });
        if let Some(gate) = gate {
            gate.pass().await;
        }
        // Others get their turn in the middle; with a stopped clock the time passes at once.
        match takes {
            Duration::ZERO => tokio::task::yield_now().await,
            takes => tokio::time::sleep(takes).await,
        }
        let payload = match fault {
            Some(PutFault::Before) => return Err(failure(put)),
            Some(PutFault::Disk) => {
                let source = Box::new(std::io::Error::from_raw_os_error(5));
                return Err(Error::Generic { store: "faulty", source });
            }
            Some(PutFault::NoBucket) => return Err(missing(location)),
            Some(PutFault::Conflict) => return Err(conflict(location)),
            Some(PutFault::Precondition) => return Err(precondition(location)),
            Some(PutFault::Hangs) => return self.hang().await,
            Some(PutFault::Lies(damage)) => match damage.to(&Bytes::from(payload)) {
                Some(other) => other.into(),
                None => {
                    return Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() });
                }
            },
            Some(PutFault::After) | None => payload,
        };
        let result = self.inner.put_opts(location, payload, opts).await;
        tokio::task::yield_now().await;
        if fault == Some(PutFault::After) { Err(failure(put)) } else { result }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        tokio::task::yield_now().await;
        let (get, fault, gate) = self.plan(|plan| {
            let get = plan.gets;
            plan.gets += 1;
            plan.heads += usize::from(options.head);
            let away = plan.away.then_some(GetFault::Fails);
            let fault = away.or_else(|| plan.get_faults.get(location.as_ref()).copied());
            let fault = fault.or_else(|| plan.passing_faults.get_mut(location.as_ref())?.pop());
            let fault = fault.or_else(|| plan.chance.as_mut()?.get());
            (get, fault, plan.gate.clone())
        });
        if let Some(gate) = gate.filter(|_| !is_manifest(location) && !options.head) {
            gate.pass().await;
        }
        let damage = match fault {
            None => return self.inner.get_opts(location, options).await,
            Some(GetFault::Fails) => return Err(failure(get)),
            Some(GetFault::Hangs) => return self.hang().await,
            Some(GetFault::Conflict) => return Err(conflict(location)),
            Some(GetFault::Lies(damage)) => damage,
        };
        let head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        let (mut meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let mut data = Vec::new();
        if head {
            // Of the object that it would be.
            let whole = vec![0; usize::try_from(meta.size).unwrap()];
            meta.size = damage.to(&whole).ok_or_else(|| missing(location))?.len() as u64;
        } else {
            data = damage.to(&result.bytes().await?).ok_or_else(|| missing(location))?;
        }
        let stream = futures::stream::iter([Ok(Bytes::from(data))]).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(stream), meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let deleted = locations.then(move |location| {
            let this = this.clone();
            async move {
                let location = location?;
                tokio::task::yield_now().await;
                let fault = this.plan(|plan| {
                    let stuck = plan.away || plan.stuck.iter().any(|key| key == location.as_ref());
                    if stuck { Some(false) } else { plan.chance.as_mut()?.delete() }
                });
                if this.plan(|plan| plan.delete_hangs) {
                    return this.hang().await;
                }
                if fault == Some(false) {
                    return Err(failure(2));
                }
                let one = futures::stream::iter([Ok(location)]).boxed();
                let deleted = this.inner.delete_stream(one).next().await.unwrap_or_else(|| Err(failure(1)));
                if fault == Some(true) { Err(failure(2)) } else { deleted }
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
