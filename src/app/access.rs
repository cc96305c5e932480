//! Who calls: settled once for each call, from what it brings along.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::app::Error;
use crate::domain::access::Grant;
use crate::domain::access::Principal;
use crate::domain::access::Scope;
use crate::domain::audit::Caller;
use crate::domain::member;
use crate::domain::member::Identity;
use crate::domain::member::Member;
use crate::domain::refusal::Refusal;
use crate::domain::token;
use crate::domain::token::Token;

/// How long what was read of a token is believed: one that is revoked is refused everywhere after this.
pub const FRESH: Duration = Duration::from_secs(10);
/// Tokens that are remembered, those among them that nobody made: about 2 MiB.
const MOST_KNOWN: usize = 8_192;
/// Tokens that are looked up at once: whoever sends many that nobody made keeps no place from those that are known.
const LOOKUPS: usize = 2;
/// Known tokens that are read again at once, beside those.
const REFRESHES: usize = 8;
/// How long a call waits for that. A server that looks up nothing else is being flooded.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);
/// When a caller should come back that found no place.
const LOOKUP_RETRY: Duration = Duration::from_secs(1);
/// Reads that wait to be noted in the audit log: less than a KiB each.
const NOTES: usize = 1_024;
/// How exactly it is noted when a token was used last: at most one write so often.
const USES_EVERY: Duration = Duration::from_secs(60);

/// What a server knows of those who call it.
#[derive(Debug)]
pub(super) struct Access {
    /// Whether callers must show who they are.
    is_required: bool,
    known: Mutex<Known>,
    lookups: Semaphore,
    /// For tokens that were found before.
    refreshes: Semaphore,
    /// Reads of weights so far.
    reads: AtomicU64,
    notes: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Known {
    /// By their ids; none: nobody made it.
    tokens: Memory<Option<Token>>,
    /// By the identities of a certificate.
    members: Memory<Vec<Member>>,
    /// How often something was forgotten.
    generation: u64,
    /// Tokens that were used since that was last noted.
    used: HashMap<String, i64>,
    noted: Option<Instant>,
}

/// What was read, and when.
#[derive(Debug)]
struct Memory<T>(HashMap<String, (T, Instant)>);

impl<T> Default for Memory<T> {
    fn default() -> Memory<T> {
        Memory(HashMap::new())
    }
}

impl<T: Clone> Memory<T> {
    /// What was read of late.
    fn fresh(&self, key: &str) -> Option<T> {
        self.0.get(key).filter(|(_, at)| at.elapsed() < FRESH).map(|(it, _)| it.clone())
    }

    fn put(&mut self, key: String, read: T, is_found: impl Fn(&T) -> bool) {
        if self.0.len() >= MOST_KNOWN {
            // A flood of what nobody made goes first.
            self.0.retain(|_, (it, _)| is_found(it));
        }
        if self.0.len() >= MOST_KNOWN {
            self.0.retain(|_, (_, at)| at.elapsed() < FRESH);
        }
        if self.0.len() < MOST_KNOWN {
            self.0.insert(key, (read, Instant::now()));
        }
    }
}

impl Access {
    pub(super) fn new(is_required: bool) -> Access {
        Access {
            is_required,
            known: Mutex::default(),
            lookups: Semaphore::new(LOOKUPS),
            refreshes: Semaphore::new(REFRESHES),
            reads: AtomicU64::new(0),
            notes: Arc::new(Semaphore::new(NOTES)),
        }
    }

    /// Counts a read; answers how many were before it.
    pub(super) fn count_read(&self) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for a read that waits to be noted; none: too many do.
    pub(super) fn place_for_note(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.notes).try_acquire_owned().ok()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token of this id was found before, however long ago.
    fn is_known(&self, id: &str) -> bool {
        self.known().tokens.0.get(id).is_some_and(|(token, _)| token.is_some())
    }

    /// Before a read: what was forgotten since must not be remembered as it was.
    fn generation(&self) -> u64 {
        self.known().generation
    }

    /// What is known, to remember what was read, unless something was forgotten since then.
    fn known_since(&self, generation: u64) -> Option<MutexGuard<'_, Known>> {
        Some(self.known()).filter(|it| it.generation == generation)
    }

    /// Notes a use, and answers what is to be written now.
    fn used(&self, token: &Token, now_us: i64) -> Option<Vec<String>> {
        let mut known = self.known();
        known.used.insert(token.id.clone(), now_us);
        let is_due = known.noted.is_none_or(|noted| noted.elapsed() >= USES_EVERY);
        is_due.then(|| {
            known.noted = Some(Instant::now());
            known.used.drain().map(|(id, _)| id).collect()
        })
    }
}

impl App {
    /// Whether callers must show who they are.
    pub fn asks_who_calls(&self) -> bool {
        self.access.is_required
    }

    /// Who calls with this token, or else with a certificate of these identities (none: without one). A server that does not ask lets
    /// anybody do anything, and looks at neither.
    pub async fn principal(
        &self,
        token: Option<&str>,
        certificate: Option<&[Identity]>,
    ) -> Result<Principal, Error> {
        if !self.access.is_required {
            return Ok(Principal::anybody());
        }
        if let (None, Some(identities)) = (token, certificate) {
            return self.member(identities).await;
        }
        let Some(text) = token else {
            let message = "this server wants to know who calls: send `authorization: Bearer TOKEN` (the clients take the token \
                from KEEPBEST_TOKEN)";
            return Err(Refusal::unauthenticated("TOKEN_MISSING", message).into());
        };
        let token = self.token(token::id_of(text)?).await?.ok_or_else(token::unknown)?;
        let now_us = self.clock.now_us();
        let principal = token.principal(text, now_us)?;
        if let Some(used) = self.access.used(&token, now_us) {
            let db = self.db.clone();
            tokio::spawn(async move {
                if let Err(error) = db.use_tokens(used, now_us).await {
                    tracing::warn!(error = %crate::app::causes(&error), "Could not note when tokens were used");
                }
            });
        }
        Ok(principal)
    }

    /// Who calls with a certificate. A member of several teams may do in each what it may do there.
    async fn member(&self, identities: &[Identity]) -> Result<Principal, Error> {
        let key = identities.iter().map(Identity::as_str).collect::<Vec<_>>().join(" ");
        let fresh = self.access.known().members.fresh(&key);
        let members = match fresh {
            Some(members) => members,
            None => {
                let generation = self.access.generation();
                let members = self.db.members_of(identities).await?;
                if let Some(mut known) = self.access.known_since(generation) {
                    known.members.put(key, members.clone(), |it| !it.is_empty());
                }
                members
            }
        };
        // The same one however many roles there are, and in whatever order they were read.
        let mut known = identities.iter().filter(|it| members.iter().any(|member| member.identity == **it));
        let Some(name) = known.next().map(Identity::to_string) else {
            return Err(member::unknown(identities).into());
        };
        Ok(Principal::new(name, members.into_iter().map(|it| it.grant).collect()))
    }

    async fn token(&self, id: &str) -> Result<Option<Token>, Error> {
        let fresh = || self.access.known().tokens.fresh(id);
        if let Some(token) = fresh() {
            return Ok(token);
        }
        let crowded = || {
            let message = "too many tokens are being looked up: try the same call again";
            Refusal::exhausted("BUSY", message).retry_after(LOOKUP_RETRY)
        };
        // One that is known, and was read a while ago, waits behind no strangers.
        let is_known = self.access.is_known(id);
        let lookups = if is_known { &self.access.refreshes } else { &self.access.lookups };
        let place = tokio::time::timeout(LOOKUP_WAIT, lookups.acquire()).await;
        let _place = place.map_err(|_| crowded())?.map_err(|_| Error::Stopping)?;
        // Another call may have looked meanwhile.
        if let Some(token) = fresh() {
            return Ok(token);
        }
        let generation = self.access.generation();
        let token = self.db.token(id).await?;
        if let Some(mut known) = self.access.known_since(generation) {
            known.tokens.put(id.to_owned(), token.clone(), Option::is_some);
        }
        Ok(token)
    }

    /// Forgets what is known of members, so that what was changed here holds here at once.
    pub(super) fn forget_members(&self) {
        let mut known = self.access.known();
        known.generation += 1;
        known.members = Memory::default();
    }

    /// Forgets what is known of tokens, so that what was changed here holds here at once.
    pub(super) fn forget_tokens(&self) {
        let mut known = self.access.known();
        known.generation += 1;
        known.tokens = Memory::default();
    }

    /// Whether whatever the caller may see it may see in a whole team.
    pub(super) fn reads_whole_teams(&self) -> bool {
        let of_team = |it: &Grant| matches!(it.scope, Scope::Team(_));
        self.caller.as_ref().is_none_or(|it| it.is_anybody() || it.grants.iter().all(of_team))
    }

    /// The service for one call: what it changes stands in the audit log as the caller's, if the log is to tell of it.
    pub fn by(&self, caller: Option<&Caller>, principal: &Principal) -> Result<App, Error> {
        let mut app = self.clone();
        app.caller = Some(Arc::new(principal.clone()));
        if let Some(caller) = caller {
            app.db = self.db.by(caller)?;
        }
        Ok(app)
    }
}
