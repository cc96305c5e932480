// Files, to the server and back.
#pragma once

#include <filesystem>
#include <string>

#include "keepbest/v1/artifacts.grpc.pb.h"
#include "keepbest/v1/checkpoints.grpc.pb.h"

/// Writes a file of the checkpoint. Where it broke off, it asks how many bytes are durable and sends the rest.
void upload(keepbest::v1::Checkpoints::Stub* stub, const std::string& checkpoint, int64_t attempt,
            const std::filesystem::path& path);

/// Writes a version's first file to a path, and answers its digest, which is the one that was declared.
std::string download(keepbest::v1::Artifacts::Stub* stub, const keepbest::v1::Version& version,
                     const std::filesystem::path& path);

std::string hex(const std::string& bytes);
