// A training that loses nothing when the server or it itself is killed: complete ADDRESS RUN FOLDER.
#include <openssl/rand.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <vector>

#include "calls.h"
#include "keepbest/v1/runs.grpc.pb.h"
#include "transfer.h"

namespace v1 = keepbest::v1;

namespace {

constexpr char kProject[] = "teams/demo/projects/languages";
/// What the epochs of this training come to.
constexpr double kLosses[] = {0.9, 0.7, 0.8, 0.5, 0.3};

/// What a training needs of its channel.
std::shared_ptr<grpc::Channel> connect(const std::string& address) {
  grpc::ChannelArguments arguments;
  // A server that is gone without a word is found, instead of waited for.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // Its own is two minutes: long after the server is back.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

std::string newId() {
  std::string bytes(16, 0);
  RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  return hex(bytes);
}

/// Stands for the training of an epoch: it leaves 20 MiB of weights.
void fit(int epoch, const std::filesystem::path& path) {
  std::string weights(20 << 20, 0);
  for (size_t at = 0; at < weights.size(); ++at) {
    weights[at] = static_cast<char>((at >> 20) ^ (epoch << 5) ^ at);
  }
  std::ofstream(path, std::ios::binary) << weights;
}

class Training {
 public:
  /// Begins the run or goes on with it behind the newest version, whose weights a real training would load now.
  Training(const std::string& address, const std::string& id)
      : channel_(connect(address)),
        runs_(v1::Runs::NewStub(channel_)),
        checkpoints_(v1::Checkpoints::NewStub(channel_)),
        artifacts_(v1::Artifacts::NewStub(channel_)) {
    v1::StartRunRequest request;
    request.set_parent(kProject);
    request.set_run_id(id);
    // New in each start of the process, and the same when the call is repeated.
    request.set_request_id(newId());
    request.mutable_strategy()->set_filepath("model-{epoch:02d}.bin");
    request.mutable_strategy()->set_save_best_only(true);
    auto started = unary<v1::StartRunResponse>(runs_, &v1::Runs::Stub::StartRun, request);
    run_ = started.run().name();
    attempt_ = started.attempt();
    next_sequence_ = started.next_sequence();
    if (started.has_resume_from()) {
      std::cout << "resume from " << started.resume_from().name() << std::endl;
      first_epoch_ = static_cast<int>(started.resume_from().epoch()) + 1;
    }
  }

  void train(const std::filesystem::path& folder) {
    for (int epoch = first_epoch_; epoch < static_cast<int>(std::size(kLosses)); ++epoch) {
      fit(epoch, folder / "model.bin");
      endOfEpoch(epoch, folder / "model.bin");
    }
    v1::FinishRunRequest finish;
    finish.set_name(run_);
    finish.set_attempt(attempt_);
    unary<v1::Run>(runs_, &v1::Runs::Stub::FinishRun, finish);
    v1::GetBestVersionRequest ask;
    ask.set_parent(run_);
    ask.set_include_files(true);
    auto best = unary<v1::Version>(artifacts_, &v1::Artifacts::Stub::GetBestVersion, ask);
    auto digest = download(artifacts_.get(), best, folder / "best.bin");
    std::cout << "best " << best.name() << " " << hex(digest) << std::endl;
  }

 private:
  void endOfEpoch(int epoch, const std::filesystem::path& file) {
    v1::Event event;
    event.set_kind(v1::EVENT_KIND_EPOCH_END);
    event.set_epoch(epoch);
    (*event.mutable_metrics())["val_loss"] = kLosses[epoch];
    for (const auto& decision : report({event})) {
      if (decision.action() == v1::ACTION_FAIL) {
        throw std::runtime_error("epoch " + std::to_string(epoch) + ": " + decision.reason_text());
      }
      if (decision.action() != v1::ACTION_SAVE) {
        std::cout << "epoch " << epoch << " not saved: " << decision.reason_text() << std::endl;
        continue;
      }
      upload(checkpoints_.get(), decision.checkpoint(), attempt_, file);
      v1::CommitCheckpointRequest commit;
      commit.set_checkpoint(decision.checkpoint());
      commit.set_attempt(attempt_);
      commit.set_file_count(1);
      auto version = unary<v1::Version>(checkpoints_, &v1::Checkpoints::Stub::CommitCheckpoint, commit);
      std::cout << "epoch " << epoch << " saved as " << version.name() << std::endl;
    }
  }

  /// Sends events until all are taken, and answers what was decided.
  std::vector<v1::Decision> report(const std::vector<v1::Event>& events) {
    std::vector<v1::Decision> decisions;
    for (auto event = events.begin(); event != events.end();) {
      v1::ReportEventsRequest request;
      request.set_run(run_);
      request.set_attempt(attempt_);
      request.set_first_sequence(next_sequence_);
      request.mutable_events()->Add(event, events.end());
      auto answer = unary<v1::ReportEventsResponse>(runs_, &v1::Runs::Stub::ReportEvents, request);
      decisions.insert(decisions.end(), answer.decisions().begin(), answer.decisions().end());
      event += answer.next_sequence() - next_sequence_;
      next_sequence_ = answer.next_sequence();
    }
    return decisions;
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Runs::Stub> runs_;
  std::unique_ptr<v1::Checkpoints::Stub> checkpoints_;
  std::unique_ptr<v1::Artifacts::Stub> artifacts_;
  std::string run_;
  int64_t attempt_ = 0;
  int64_t next_sequence_ = 0;
  int first_epoch_ = 0;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: complete ADDRESS RUN FOLDER" << std::endl;
    return 2;
  }
  try {
    Training(arguments[1], arguments[2]).train(arguments[3]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
