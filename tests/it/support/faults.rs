//! An object store that fails on purpose, before or after the effect, lies, is slow or never answers.

use std::collections::BTreeMap;
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
use tokio::sync::Notify;

use crate::support::random::Random;

/// What becomes of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PutFault {
    /// It stored nothing and says so.
    Before,
    /// It stored all, but said that it failed.
    After,
    /// It stored nothing and never answers.
    Hangs,
    /// Its disk failed: `EIO`.
    Disk,
    /// It stored nothing, for there is nothing to store in.
    NoBucket,
    /// It says that it stored all; the object is damaged so from then on.
    Lies(Damage),
}

/// What is wrong with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// It is not there.
    Missing,
    /// One bit is another; counted on from the beginning if the object has fewer.
    Flip(usize),
    /// It has only so many bytes.
    Short(usize),
    /// Bytes that nobody wrote stand behind it.
    Long,
}

impl Damage {
    /// The bytes with the damage; nothing if none are left.
    pub(crate) fn to(self, data: &[u8]) -> Option<Vec<u8>> {
        let mut data = data.to_vec();
        match self {
            Damage::Missing => return None,
            // Of no bytes there is none to flip.
            Damage::Flip(_) if data.is_empty() => {}
            Damage::Flip(bit) => {
                let bit = bit % (data.len() * 8);
                data[bit / 8] ^= 1 << (bit % 8);
            }
            Damage::Short(length) => data.truncate(length),
            Damage::Long => data.push(0),
        }
        Some(data)
    }
}

/// What becomes of a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GetFault {
    /// No bytes come, and it says so.
    Fails,
    /// It never answers.
    Hangs,
    /// Other bytes come.
    Lies(Damage),
}

/// What goes wrong, by turns, by keys or by chance.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Puts of chunks so far.
    pub(crate) puts: usize,
    /// Gets so far.
    pub(crate) gets: usize,
    /// By the number of the put, from 0.
    pub(crate) put_faults: HashMap<usize, PutFault>,
    /// What happens to every put of a manifest.
    pub(crate) manifest_fault: Option<PutFault>,
    /// By key, at every get.
    pub(crate) get_faults: HashMap<String, GetFault>,
    /// By key, at the next gets, the last one first.
    pub(crate) passing_faults: HashMap<String, Vec<GetFault>>,
    /// Keys that cannot be deleted.
    pub(crate) stuck: Vec<String>,
    /// Deletes never answer.
    pub(crate) delete_hangs: bool,
    /// Calls that never answered.
    pub(crate) hung: usize,
    /// All calls fail.
    pub(crate) away: bool,
    /// Calls fail by chance.
    pub(crate) chance: Option<Chance>,
    /// How long each put takes.
    pub(crate) put_takes: Duration,
    /// Where each put and each get of a chunk waits.
    pub(crate) gate: Option<Arc<Gate>>,
}

/// Dice for faults.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) random: Random,
    /// So many of a hundred calls go wrong.
    pub(crate) percent: usize,
    /// Puts are of those that lie, too: what they say is stored is damaged for good.
    pub(crate) puts_lie: bool,
    /// Faults so far, by kind.
    pub(crate) thrown: BTreeMap<&'static str, usize>,
}

impl Chance {
    pub(crate) fn new(seed: u64, percent: usize, puts_lie: bool) -> Chance {
        Chance { random: Random::new(seed), percent, puts_lie, thrown: BTreeMap::new() }
    }

    fn hits(&mut self) -> bool {
        self.random.below(100) < self.percent
    }

    fn damage(&mut self) -> Damage {
        let bit = self.random.below(usize::MAX);
        [Damage::Missing, Damage::Flip(bit), Damage::Short(bit % 100), Damage::Long][self.random.below(4)]
    }

    fn put(&mut self) -> Option<PutFault> {
        let damage = self.damage();
        let (fault, kind) = match self.hits().then(|| self.random.below(if self.puts_lie { 3 } else { 2 }))? {
            0 => (PutFault::Before, "put failed before"),
            1 => (PutFault::After, "put failed after"),
            _ => (PutFault::Lies(damage), "put lied"),
        };
        *self.thrown.entry(kind).or_default() += 1;
        Some(fault)
    }

    fn get(&mut self) -> Option<GetFault> {
        let damage = self.damage();
        let (fault, kind) = match self.hits().then(|| self.random.below(2))? {
            0 => (GetFault::Fails, "get failed"),
            _ => (GetFault::Lies(damage), "get lied"),
        };
        *self.thrown.entry(kind).or_default() += 1;
        Some(fault)
    }

    /// Whether a delete fails, and then whether after it was done.
    fn delete(&mut self) -> Option<bool> {
        let after = self.hits().then(|| self.random.below(2) == 1)?;
        *self.thrown.entry("delete failed").or_default() += 1;
        Some(after)
    }
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
                let fault = away.or(plan.manifest_fault).or_else(|| plan.chance.as_mut()?.put());
                let fault = fault.filter(|it| !matches!(it, PutFault::Lies(_)));
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
            let away = plan.away.then_some(GetFault::Fails);
            let fault = away.or_else(|| plan.get_faults.get(location.as_ref()).copied());
            let fault = fault.or_else(|| plan.passing_faults.get_mut(location.as_ref())?.pop());
            let fault = fault.or_else(|| plan.chance.as_mut()?.get());
            (get, fault, plan.gate.clone())
        });
        if let Some(gate) = gate.filter(|_| !is_manifest(location)) {
            gate.pass().await;
        }
        let damage = match fault {
            None => return self.inner.get_opts(location, options).await,
            Some(GetFault::Fails) => return Err(failure(get)),
            Some(GetFault::Hangs) => return self.hang().await,
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
