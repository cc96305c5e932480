// Calls that are made until they work, fail for good, or took longer than our patience.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>

/// A call failed, and no repeat helps. Says what the server refused, its reason first.
struct Failed : std::runtime_error {
  explicit Failed(const grpc::Status& status);
};

/// Of a call that is one question and one answer.
constexpr std::chrono::seconds kDeadline{30};

/// Repeats a call: every call of the API may be repeated.
void retry(const std::function<grpc::Status()>& call);

/// Makes a call with a deadline, and repeats it. While there is no connection it waits for one.
template <class Answer, class Stub, class Method, class Request>
Answer unary(Stub& stub, Method method, const Request& request) {
  Answer answer;
  retry([&] {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kDeadline);
    context.set_wait_for_ready(true);
    return (*stub.*method)(&context, request, &answer);
  });
  return answer;
}
