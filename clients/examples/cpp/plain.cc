// One save with nothing but the stubs: plain ADDRESS FILE.
#include <grpcpp/grpcpp.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>

#include "keepbest/v1/checkpoints.grpc.pb.h"
#include "keepbest/v1/runs.grpc.pb.h"

namespace v1 = keepbest::v1;

/// Makes a call, and ends the program if it fails.
template <class Stub, class Method, class Request, class Answer>
void call(Stub& stub, Method method, const Request& request, Answer* answer) {
  grpc::ClientContext context;
  grpc::Status status = (*stub.*method)(&context, request, answer);
  if (!status.ok()) throw std::runtime_error(status.error_message());
}

int main(int, char** arguments) {
  std::filesystem::path path = arguments[2];
  auto channel = grpc::CreateChannel(arguments[1], grpc::InsecureChannelCredentials());
  auto runs = v1::Runs::NewStub(channel);
  auto checkpoints = v1::Checkpoints::NewStub(channel);

  v1::StartRunRequest start;
  start.set_parent("teams/demo/projects/cpp");
  start.mutable_strategy()->set_filepath("model-{epoch:02d}.bin");
  start.mutable_strategy()->set_save_best_only(true);
  v1::StartRunResponse started;
  call(runs, &v1::Runs::Stub::StartRun, start, &started);

  v1::ReportEventsRequest report;
  report.set_run(started.run().name());
  report.set_attempt(started.attempt());
  report.set_first_sequence(started.next_sequence());
  report.add_events()->set_kind(v1::EVENT_KIND_EPOCH_END);
  (*report.mutable_events(0)->mutable_metrics())["val_loss"] = 0.25;
  v1::ReportEventsResponse answer;
  call(runs, &v1::Runs::Stub::ReportEvents, report, &answer);
  if (answer.decisions(0).action() != v1::ACTION_SAVE) return 0;

  v1::PrepareFileRequest prepare;
  prepare.set_checkpoint(answer.decisions(0).checkpoint());
  prepare.set_attempt(started.attempt());
  prepare.set_path(path.filename());
  prepare.set_size_bytes(std::filesystem::file_size(path));
  v1::File file;
  call(checkpoints, &v1::Checkpoints::Stub::PrepareFile, prepare, &file);

  grpc::ClientContext context;
  auto stream = checkpoints->WriteFile(&context, &file);
  v1::WriteFileRequest message;
  message.set_checkpoint(prepare.checkpoint());
  message.set_attempt(prepare.attempt());
  message.set_path(prepare.path());
  std::ifstream source(path, std::ios::binary);
  std::string piece(1 << 20, 0);
  for (int64_t sent = 0; !message.finish();) {
    if (sent > 0) message.Clear();
    sent += source.read(piece.data(), piece.size()).gcount();
    message.set_data(piece.data(), source.gcount());
    message.set_finish(sent == prepare.size_bytes());
    if (!stream->Write(message)) break;  // Finish says why.
  }
  stream->WritesDone();
  if (grpc::Status status = stream->Finish(); !status.ok()) throw std::runtime_error(status.error_message());

  v1::CommitCheckpointRequest commit;
  commit.set_checkpoint(prepare.checkpoint());
  commit.set_attempt(prepare.attempt());
  v1::Version version;
  call(checkpoints, &v1::Checkpoints::Stub::CommitCheckpoint, commit, &version);
  std::cout << version.name() << std::endl;
}
