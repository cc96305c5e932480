//! The methods of the service `Admin`.

use keepbest_proto::v1;
use keepbest_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::client::Client;
use crate::error::Result;
use crate::patience::Work;

fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel)
}

/// Administration. Errors: [`Error::Refused`](crate::Error::Refused) with the codes of `admin.proto`,
/// [`Error::Unreachable`](crate::Error::Unreachable) when no answer comes.
impl Client {
    /// Who calls, and what it may do.
    pub async fn who_am_i(&self) -> Result<v1::WhoAmIResponse> {
        let call = |channel, request| async move { admin(channel).who_am_i(request).await };
        self.unary("WhoAmI", Work::Rows, v1::WhoAmIRequest {}, call).await
    }

    /// Makes a team. A retry after a lost answer is told that it exists.
    pub async fn create_team(&self, request: v1::CreateTeamRequest) -> Result<v1::Team> {
        let call = |channel, request| async move { admin(channel).create_team(request).await };
        self.unary("CreateTeam", Work::Rows, request, call).await
    }

    /// A page of the teams.
    pub async fn list_teams(&self, request: v1::ListTeamsRequest) -> Result<v1::ListTeamsResponse> {
        let call = |channel, request| async move { admin(channel).list_teams(request).await };
        self.unary("ListTeams", Work::Rows, request, call).await
    }

    /// Makes a token, whose text is in the answer and nowhere else. A retry after a lost answer makes another one.
    pub async fn create_token(&self, request: v1::CreateTokenRequest) -> Result<v1::CreateTokenResponse> {
        let call = |channel, request| async move { admin(channel).create_token(request).await };
        self.unary("CreateToken", Work::Rows, request, call).await
    }

    /// A page of the tokens of a team, or of the service.
    pub async fn list_tokens(&self, request: v1::ListTokensRequest) -> Result<v1::ListTokensResponse> {
        let call = |channel, request| async move { admin(channel).list_tokens(request).await };
        self.unary("ListTokens", Work::Rows, request, call).await
    }

    /// Ends a token. Repeating it does no harm.
    pub async fn revoke_token(&self, request: v1::RevokeTokenRequest) -> Result<v1::Token> {
        let call = |channel, request| async move { admin(channel).revoke_token(request).await };
        self.unary("RevokeToken", Work::Rows, request, call).await
    }

    /// Gives the holder of a certificate a role.
    pub async fn set_member(&self, request: v1::SetMemberRequest) -> Result<v1::Member> {
        let call = |channel, request| async move { admin(channel).set_member(request).await };
        self.unary("SetMember", Work::Rows, request, call).await
    }

    /// A page of the members of a team.
    pub async fn list_members(&self, request: v1::ListMembersRequest) -> Result<v1::ListMembersResponse> {
        let call = |channel, request| async move { admin(channel).list_members(request).await };
        self.unary("ListMembers", Work::Rows, request, call).await
    }

    /// Takes a role away. Repeating it does no harm.
    pub async fn delete_member(&self, request: v1::DeleteMemberRequest) -> Result<v1::DeleteMemberResponse> {
        let call = |channel, request| async move { admin(channel).delete_member(request).await };
        self.unary("DeleteMember", Work::Rows, request, call).await
    }

    /// A page of the audit log of a team, or of the service, the newest entry first.
    pub async fn list_audit_entries(
        &self,
        request: v1::ListAuditEntriesRequest,
    ) -> Result<v1::ListAuditEntriesResponse> {
        let call = |channel, request| async move { admin(channel).list_audit_entries(request).await };
        self.unary("ListAuditEntries", Work::Rows, request, call).await
    }
}
