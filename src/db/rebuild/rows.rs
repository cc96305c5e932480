//! The rows of one version, from its manifest: only ever added, and what stands already is left.

use crate::db::Error;
use crate::db::aliases::put_server_alias;
use crate::db::connection::Connection;
use crate::db::connection::args;
use crate::db::manifests::state_to_text;
use crate::db::new_uid;
use crate::db::rebuild::RebuiltVersion;
use crate::db::runs::direction_to_text;
use crate::db::runs::state_of;
use crate::db::to_json;
use crate::domain::ids::Id;
use crate::domain::manifest::ManifestFile;
use crate::domain::manifest::ManifestHead;
use crate::domain::manifest::ManifestState;

pub(super) async fn stands(connection: &mut Connection<'_>, table: &str, uid: &str) -> Result<bool, Error> {
    Ok(connection.row(&format!("SELECT 1 FROM {table} WHERE uid = $1"), args![uid]).await?.is_some())
}

/// Gives a name to what has a committed version: from whoever only has deleted ones, and back to it, if it was called as deleted
/// things are.
async fn take_name(
    connection: &mut Connection<'_>,
    (table, column, uid): (&str, &str, &str),
    (team, project, id): (&str, &str, &str),
    now_us: i64,
) -> Result<(), Error> {
    let give_way = format!(
        "UPDATE {table} SET id = '~' || uid, delete_time_us = $1 WHERE team = $2 AND project = $3 AND id = $4 \
         AND uid <> $5 AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.{column} = {table}.uid AND c.state = 'COMMITTED')"
    );
    connection.execute(&give_way, args![now_us, team, project, id, uid]).await?;
    let back = format!(
        "UPDATE {table} SET id = $1, delete_time_us = NULL WHERE uid = $2 AND id = $3 AND NOT EXISTS \
         (SELECT 1 FROM {table} o WHERE o.team = $4 AND o.project = $5 AND o.id = $1)"
    );
    connection.execute(&back, args![id, uid, Id::of_gone(uid).as_str(), team, project]).await.map(drop)
}

/// A name is used again once what had it was deleted. So what has a committed version has the name, and what only has deleted ones has
/// it as long as nobody else does; else it is called as deleted things are.
pub(super) async fn put_artifact(
    connection: &mut Connection<'_>,
    head: &ManifestHead,
    now_us: i64,
) -> Result<(), Error> {
    let artifact = &head.artifact;
    let (team, project, id) = (artifact.team.as_str(), artifact.project.as_str(), artifact.id.as_str());
    let gone = Id::of_gone(&artifact.uid);
    if head.version.state == ManifestState::Committed {
        let own = ("artifacts", "artifact_uid", artifact.uid.as_str());
        take_name(connection, own, (team, project, id), now_us).await?;
    }
    let insert = "INSERT INTO artifacts (uid, team, project, id, type, monitor, direction, next_version, create_time_us, \
        delete_time_us) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9) ON CONFLICT DO NOTHING";
    let mut names = vec![(id, None)];
    if head.version.state == ManifestState::Deleted {
        names.push((gone.as_str(), Some(now_us)));
    }
    for (id, delete_time_us) in names {
        let values = args![
            &artifact.uid,
            team,
            project,
            id,
            &artifact.kind,
            &artifact.monitor,
            direction_to_text(artifact.direction),
            artifact.create_time_us,
            delete_time_us,
        ];
        connection.execute(insert, values).await?;
    }
    let number = "UPDATE artifacts SET next_version = $1 WHERE uid = $2 AND next_version < $1";
    connection.execute(number, args![head.version.number.saturating_add(1), &artifact.uid]).await.map(drop)
}

/// The run as the manifest knows it, if none knew it better. Its events are not in the store: they are counted anew.
pub(super) async fn put_run(
    connection: &mut Connection<'_>,
    head: &ManifestHead,
    now_us: i64,
) -> Result<(), Error> {
    let (artifact, run) = (&head.artifact, &head.run);
    let (team, project, id) = (artifact.team.as_str(), artifact.project.as_str(), run.id.as_str());
    let gone = Id::of_gone(&run.uid);
    if head.version.state == ManifestState::Committed {
        take_name(connection, ("runs", "run_uid", &run.uid), (team, project, id), now_us).await?;
    }
    let insert = "INSERT INTO runs (uid, team, project, id, artifact_uid, strategy, direction, monitor_state, attempt, \
        state, revision, event_count, create_time_us, update_time_us, delete_time_us) \
        VALUES ($1, $2, $3, $4, $5, '', '', '', 0, '', -1, 0, $6, $6, $7) ON CONFLICT DO NOTHING";
    let mut names = vec![(id, None)];
    if head.version.state == ManifestState::Deleted {
        names.push((gone.as_str(), Some(now_us)));
    }
    for (id, delete_time_us) in names {
        let values = args![&run.uid, team, project, id, &artifact.uid, run.create_time_us, delete_time_us];
        connection.execute(insert, values).await?;
    }
    // Its newest version says where it saves.
    let update = "UPDATE runs SET strategy = $1, direction = $2, monitor_state = $3, attempt = $4, state = $5, \
        revision = $6, last_epoch = $7, config = $8, update_time_us = $9, finish_time_us = $10, artifact_uid = $12 \
        WHERE uid = $11 AND revision < $6";
    let values = args![
        to_json(&run.strategy)?,
        direction_to_text(run.direction),
        to_json(&run.monitor_state)?,
        run.attempt,
        state_of(&run.state)?.as_str(),
        run.revision,
        run.last_epoch,
        run.config_json.clone(),
        run.update_time_us,
        run.finish_time_us,
        &run.uid,
        &artifact.uid,
    ];
    connection.execute(update, values).await.map(drop)
}

pub(super) async fn put_checkpoint(
    connection: &mut Connection<'_>,
    rebuilt: &RebuiltVersion,
    now_us: i64,
) -> Result<bool, Error> {
    let RebuiltVersion { head, is_lost, .. } = rebuilt;
    let version = &head.version;
    let stands = version.state == ManifestState::Committed && !is_lost;
    // What has no bytes has nothing to purge; and its manifest in the store stays as it is.
    let state = state_to_text(if stands { ManifestState::Committed } else { ManifestState::Deleted });
    let gone_us = (!stands).then_some(version.delete_time_us.unwrap_or(now_us));
    let sql = "INSERT INTO checkpoints (uid, run_uid, artifact_uid, attempt, state, manifest_state, version, epoch, batch, \
        step, path, weights_only, value, reason, reason_text, aliases, metrics, metadata, size_bytes, file_count, digest, \
        create_time_us, expire_time_us, commit_time_us, delete_time_us, purge_time_us, part_count) VALUES ($1, $2, $3, $4, $5, $5, $6, \
        $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $22, $23, $23, $24) ON CONFLICT DO NOTHING";
    let values = args![
        &version.checkpoint,
        &head.run.uid,
        &head.artifact.uid,
        version.attempt,
        state,
        version.number,
        version.epoch,
        version.batch,
        version.step,
        &version.path,
        version.weights_only,
        version.value,
        &version.reason,
        &version.reason_text,
        to_json(&version.aliases)?,
        to_json(&version.metrics)?,
        version.metadata_json.clone(),
        version.size_bytes,
        version.file_count,
        version.digest,
        version.create_time_us,
        version.commit_time_us,
        gone_us,
        version.part_count,
    ];
    Ok(connection.execute(sql, values).await? == 1)
}

/// An alias stands at the last version that got it at its commit; one that was deleted since took it along, which
/// [`super::follow_aliases`] sees to when all versions are in.
pub(super) async fn put_aliases(connection: &mut Connection<'_>, head: &ManifestHead) -> Result<(), Error> {
    let (artifact_uid, version) = (&head.artifact.uid, &head.version);
    for alias in &version.aliases {
        let later = "SELECT 1 FROM aliases l JOIN checkpoints c ON c.uid = l.checkpoint_uid \
            WHERE l.artifact_uid = $1 AND l.alias = $2 AND c.version > $3";
        if connection.row(later, args![artifact_uid, alias, version.number]).await?.is_none() {
            put_server_alias(connection, artifact_uid, alias, &version.checkpoint, version.commit_time_us)
                .await?;
        }
    }
    Ok(())
}

/// What versions are found by: their metrics, and their places in the feed of their team.
pub(super) async fn put_metrics(
    connection: &mut Connection<'_>,
    rebuilt: &RebuiltVersion,
) -> Result<(), Error> {
    let sql = "INSERT INTO version_metrics (checkpoint_uid, name, value, commit_time_us, run_uid, artifact_uid, team, \
        project) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let ManifestHead { artifact, run, version } = &rebuilt.head;
    // Whether it became the best then no manifest tells.
    let feed = "INSERT INTO feed (checkpoint_uid, team, project, artifact_uid, run_uid, is_best, commit_time_us) \
        VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (checkpoint_uid) DO NOTHING";
    let (team, project) = (artifact.team.as_str(), artifact.project.as_str());
    let values = args![&version.checkpoint, team, project, &artifact.uid, &run.uid, version.commit_time_us];
    connection.execute(feed, values).await?;
    for (name, value) in &rebuilt.ranked_metrics {
        let values = args![
            &version.checkpoint,
            name,
            *value,
            version.commit_time_us,
            &run.uid,
            &artifact.uid,
            artifact.team.as_str(),
            artifact.project.as_str(),
        ];
        connection.execute(sql, values).await?;
    }
    Ok(())
}

pub(super) async fn put_file(
    connection: &mut Connection<'_>,
    checkpoint: &str,
    team: &str,
    file: &ManifestFile,
    now_us: i64,
) -> Result<(), Error> {
    let uid = new_uid();
    let sql = "INSERT INTO files (uid, checkpoint_uid, path, size_bytes, state, digest, sha256, writer_token) \
        VALUES ($1, $2, $3, $4, 'COMPLETE', $5, $6, '')";
    let sha256 = file.sha256.map(|it| it.as_bytes().to_vec());
    let values = args![&uid, checkpoint, &file.path, file.size_bytes, file.digest, sha256];
    connection.execute(sql, values).await?;
    for chunk in &file.chunks {
        // Two keys for one digest hold the same bytes: the first that was seen stands.
        let sql = "INSERT INTO chunks (team, digest, size_bytes, object_key, touch_time_us) VALUES ($1, $2, $3, $4, $5) \
            ON CONFLICT (team, digest) DO NOTHING";
        let values = args![team, chunk.digest, chunk.size_bytes, &chunk.object_key, now_us];
        connection.execute(sql, values).await?;
        let sql = "INSERT INTO file_chunks (file_uid, offset_bytes, size_bytes, team, digest) VALUES ($1, $2, $3, $4, $5)";
        let values = args![&uid, chunk.offset_bytes, chunk.size_bytes, team, chunk.digest];
        connection.execute(sql, values).await?;
    }
    Ok(())
}
