//! Whether a call is let in: who calls was settled by the layer of that name; what it asks for is held against the rules here, for all
//! methods in one place.

use std::sync::Arc;

use crate::app::Error;
use crate::domain::access::Permission;
use crate::domain::access::Principal;
use crate::domain::access::allows;
use crate::domain::access::forbidden;
use crate::domain::audit::Act;
use crate::domain::audit::Caller;
use crate::domain::refusal::Refusal;
use crate::grpc::Face;
use crate::grpc::asks::Ask;
use crate::grpc::asks::Asks;

/// A call as the door let it in.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) principal: Principal,
    /// As `Runs/StartRun`.
    pub(crate) method: String,
    pub(crate) request_id: String,
    /// Where it comes from.
    pub(crate) address: String,
}

impl Face {
    /// The service for one call, if its caller may do what it asks for; a stream's messages are still to be asked ([`Self::admit`]).
    /// Without a caller nothing is let in: then this method is not behind the door.
    pub(super) fn admitted<T: Asks>(&self, request: &tonic::Request<T>) -> Result<Option<Face>, Error> {
        let Some(call) = request.extensions().get::<Arc<Call>>() else {
            return Err(Refusal::unauthenticated("TOKEN_MISSING", "nobody has settled who calls").into());
        };
        if call.principal.is_anybody() {
            return Ok(None);
        }
        let face = Face { call: Some(Arc::clone(call)), ..self.clone() };
        face.admit(request.get_ref())
    }

    /// The same for a message of a stream.
    pub(super) fn admit(&self, message: &impl Asks) -> Result<Option<Face>, Error> {
        let Some(call) = self.call.as_ref().filter(|it| !it.principal.is_anybody()) else { return Ok(None) };
        let Some(ask) = message.asks()? else { return Ok(Some(self.clone())) };
        match allows(&call.principal, ask.action, &ask.resource) {
            Permission::Granted => {}
            Permission::Forbidden(role) => {
                let name = if ask.name.is_empty() { "the service" } else { &ask.name };
                return Err(forbidden(&call.principal, role, name).into());
            }
            Permission::Hidden => return Err(Refusal::not_found(ask.what, ask.name).into()),
        }
        if let Some(team) = ask.resource.team() {
            self.app.take_rate(team, ask.events)?;
        }
        let caller = ask.is_audited.then(|| self.caller(call, &ask));
        let app = self.app.by(caller.as_ref(), &call.principal)?;
        Ok(Some(Face { app, ..self.clone() }))
    }

    fn caller(&self, call: &Call, ask: &Ask) -> Caller {
        Caller {
            time_us: self.app.now_us(),
            team: ask.resource.team().cloned(),
            act: Act {
                principal: call.principal.name.clone(),
                method: call.method.clone(),
                resource: ask.name.clone(),
                request_id: call.request_id.clone(),
                address: call.address.clone(),
            },
        }
    }

    /// Notes in the audit log that weights are read.
    pub(super) fn note_read(&self, request: &impl Asks) {
        if let (Some(call), Ok(Some(ask))) = (&self.call, request.asks()) {
            self.app.note_read(&self.caller(call, &ask));
        }
    }

    /// Who calls.
    pub(super) fn principal(&self) -> Principal {
        self.call.as_ref().map_or_else(Principal::anybody, |it| it.principal.clone())
    }
}
