#include "transfer.h"

#include <openssl/evp.h>

#include <fstream>
#include <memory>
#include <stdexcept>

#include "calls.h"

namespace v1 = keepbest::v1;

namespace {

/// Bytes of a file in one message. The whole message has at most 4 MiB.
constexpr size_t kPieceBytes = 1 << 20;

std::string digestOf(const std::filesystem::path& path) {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> sha256(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(sha256.get(), EVP_sha256(), nullptr);
  std::ifstream source(path, std::ios::binary);
  std::string piece(kPieceBytes, 0);
  while (source.read(piece.data(), piece.size()).gcount() > 0) {
    EVP_DigestUpdate(sha256.get(), piece.data(), source.gcount());
  }
  std::string digest(32, 0);
  EVP_DigestFinal_ex(sha256.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
  return digest;
}

/// Sends a file's bytes from an offset on, in one stream without a deadline.
grpc::Status write(v1::Checkpoints::Stub* stub, const v1::PrepareFileRequest& prepare,
                   const std::filesystem::path& path, int64_t offset) {
  std::ifstream source(path, std::ios::binary);
  source.seekg(offset);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  v1::File file;
  auto stream = stub->WriteFile(&context, &file);
  v1::WriteFileRequest message;
  message.set_checkpoint(prepare.checkpoint());
  message.set_attempt(prepare.attempt());
  message.set_path(prepare.path());
  message.set_offset_bytes(offset);
  std::string piece(kPieceBytes, 0);
  while (true) {
    offset += source.read(piece.data(), piece.size()).gcount();
    message.set_data(piece.data(), source.gcount());
    message.set_finish(offset >= prepare.size_bytes());
    // When it has ended, Finish says why.
    if (!stream->Write(message) || message.finish()) break;
    message.Clear();
  }
  stream->WritesDone();
  return stream->Finish();
}

}  // namespace

void upload(v1::Checkpoints::Stub* stub, const std::string& checkpoint, int64_t attempt,
            const std::filesystem::path& path) {
  v1::PrepareFileRequest prepare;
  prepare.set_checkpoint(checkpoint);
  prepare.set_attempt(attempt);
  prepare.set_path(path.filename());
  prepare.set_size_bytes(static_cast<int64_t>(std::filesystem::file_size(path)));
  prepare.set_sha256(digestOf(path));
  retry([&] {
    auto file = unary<v1::File>(stub, &v1::Checkpoints::Stub::PrepareFile, prepare);
    if (file.state() == v1::FILE_STATE_COMPLETE) return grpc::Status::OK;
    return write(stub, prepare, path, file.durable_bytes());
  });
}

std::string download(v1::Artifacts::Stub* stub, const v1::Version& version, const std::filesystem::path& path) {
  const v1::File& file = version.files(0);
  std::ofstream target(path, std::ios::binary | std::ios::trunc);
  int64_t offset = 0;
  retry([&] {
    if (offset == file.size_bytes()) return grpc::Status::OK;
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::ReadFileRequest request;
    // An alias may move in between: the version's own name stands for these bytes only.
    request.set_version(version.name());
    request.set_path(file.path());
    request.set_offset_bytes(offset);
    auto stream = stub->ReadFile(&context, request);
    for (v1::ReadFileResponse answer; stream->Read(&answer);) {
      target.seekp(answer.offset_bytes());
      target.write(answer.data().data(), static_cast<std::streamsize>(answer.data().size()));
      offset = answer.offset_bytes() + static_cast<int64_t>(answer.data().size());
    }
    return stream->Finish();
  });
  target.close();
  if (!target) throw std::runtime_error(path.string() + " could not be written");
  std::string digest = digestOf(path);
  if (digest != file.sha256()) {
    throw std::runtime_error(path.string() + " has SHA-256 " + hex(digest) + ", but " + hex(file.sha256()) + " was saved");
  }
  return digest;
}

std::string hex(const std::string& bytes) {
  std::string text;
  for (unsigned char byte : bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}
