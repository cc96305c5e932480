//! An object store that fails on purpose, before or after the effect, lies, or is slow.

use std::collections::HashMap;
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
use tokio::sync::Notify;

/// Whether a failed put left its object behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutFault {
    /// It stored nothing.
    Before,
    /// It stored all, but said that it failed.
    After,
}

/// What happens to the bytes of each get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetFault {
    /// None come.
    Fails,
    /// The object is not there.
    Missing,
    /// One bit of the object's bytes is another.
    Flip(usize),
    /// Only so many bytes come.
    Short(usize),
}

/// What goes wrong, by turns or by keys.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Puts so far.
    pub(crate) puts: usize,
    /// By the number of the put, from 0.
    pub(crate) put_faults: HashMap<usize, PutFault>,
    /// By key.
    pub(crate) get_faults: HashMap<String, GetFault>,
    /// Keys that cannot be deleted.
    pub(crate) stuck: Vec<String>,
    /// How long each put takes.
    pub(crate) put_takes: Duration,
    /// Where each put and each get waits.
    pub(crate) gate: Option<Arc<Gate>>,
}

/// Holds calls until it is opened for one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Told when one waits.
    pub(crate) arrived: Notify,
    /// Lets one through.
    pub(crate) open: Notify,
}

impl Gate {
    async fn pass(&self) {
        self.arrived.notify_one();
        self.open.notified().await;
    }
}

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
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "on purpose".into() }
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
        let (fault, takes, gate) = self.plan(|plan| {
            plan.puts += 1;
            (plan.put_faults.get(&(plan.puts - 1)).copied(), plan.put_takes, plan.gate.clone())
        });
        if let Some(gate) = gate {
            gate.pass().await;
        }
        // Others get their turn in the middle; with a stopped clock the time passes at once.
        match takes {
            Duration::ZERO => tokio::task::yield_now().await,
            takes => tokio::time::sleep(takes).await,
        }
        if fault == Some(PutFault::Before) {
            return Err(failure());
        }
        let result = self.inner.put_opts(location, payload, opts).await;
        tokio::task::yield_now().await;
        if fault == Some(PutFault::After) { Err(failure()) } else { result }
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
        let (fault, gate) =
            self.plan(|plan| (plan.get_faults.get(location.as_ref()).copied(), plan.gate.clone()));
        if let Some(gate) = gate {
            gate.pass().await;
        }
        let head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        let damage: Box<dyn FnOnce(&mut Vec<u8>) + Send> = match fault {
            None => return Ok(result),
            Some(GetFault::Fails) => return Err(failure()),
            Some(GetFault::Missing) => {
                return Err(Error::NotFound { path: location.to_string(), source: "on purpose".into() });
            }
            Some(GetFault::Flip(bit)) => Box::new(move |data| data[bit / 8] ^= 1 << (bit % 8)),
            Some(GetFault::Short(length)) => Box::new(move |data| data.truncate(length)),
        };
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let mut data = if head { Vec::new() } else { result.bytes().await?.to_vec() };
        if !head {
            damage(&mut data);
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
                if this.plan(|plan| plan.stuck.iter().any(|key| key == location.as_ref())) {
                    return Err(failure());
                }
                let one = futures::stream::iter([Ok(location)]).boxed();
                this.inner.delete_stream(one).next().await.unwrap_or_else(|| Err(failure()))
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
