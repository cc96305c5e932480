#include "calls.h"

#include <algorithm>
#include <optional>
#include <random>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr std::chrono::minutes kPatience{5};
constexpr milliseconds kLongestPause{5'000};

template <class Detail>
std::optional<Detail> detailOf(const grpc::Status& status) {
  google::rpc::Status rich;
  Detail detail;
  rich.ParseFromString(status.error_details());
  for (const auto& any : rich.details()) {
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

/// An error without ErrorInfo is the transport's; the server says with its code or RetryInfo whether trying again may help.
bool mayPass(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::ABORTED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return true;
    default:
      return !detailOf<google::rpc::ErrorInfo>(status) || detailOf<google::rpc::RetryInfo>(status);
  }
}

std::string describe(const grpc::Status& status) {
  auto info = detailOf<google::rpc::ErrorInfo>(status);
  std::string text = info ? info->reason() + ": " + status.error_message() : status.error_message();
  for (const auto& [key, value] : info ? info->metadata() : google::rpc::ErrorInfo().metadata()) {
    text += " " + key + "=" + value;
  }
  return text;
}

}  // namespace

Failed::Failed(const grpc::Status& status) : std::runtime_error(describe(status)) {}

void retry(const std::function<grpc::Status()>& call) {
  static std::minstd_rand random{std::random_device{}()};
  auto end = steady_clock::now() + kPatience;
  for (milliseconds pause{100};; pause = std::min(2 * pause, kLongestPause)) {
    grpc::Status status = call();
    if (status.ok()) return;
    if (!mayPass(status) || steady_clock::now() > end) throw Failed(status);
    milliseconds wait{std::uniform_int_distribution<int64_t>(pause.count() / 2, pause.count())(random)};
    if (auto told = detailOf<google::rpc::RetryInfo>(status)) {
      const auto& delay = told->retry_delay();
      wait = std::max(wait, milliseconds{delay.seconds() * 1'000 + delay.nanos() / 1'000'000});
    }
    std::this_thread::sleep_for(wait);
  }
}
