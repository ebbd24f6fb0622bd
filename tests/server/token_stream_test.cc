#include "server/token_stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/base/mutex.h"

namespace slim {
namespace {

DeltaEvent Text(const std::string& text) {
  DeltaEvent delta;
  delta.text = text;
  return delta;
}

ProgressEvent Progress(int64_t done) {
  ProgressEvent event;
  event.progress.done_tokens = done;
  return event;
}

TEST(TokenStreamTest, EventsComeInOrderThenTheEnd) {
  TokenStream stream;
  EXPECT_FALSE(stream.Pop().has_value());
  EXPECT_FALSE(stream.Finished().has_value());
  EXPECT_TRUE(stream.Push(AcceptedEvent()));
  EXPECT_TRUE(stream.Push(Text("a")));
  stream.Close(absl::CancelledError("over"));
  EXPECT_FALSE(stream.Finished().has_value()) << "not before everything was taken";
  EXPECT_TRUE(absl::holds_alternative<AcceptedEvent>(*stream.Pop()));
  EXPECT_EQ(absl::get<DeltaEvent>(*stream.Pop()).text, "a");
  EXPECT_FALSE(stream.Pop().has_value());
  EXPECT_EQ(stream.Finished()->code(), absl::StatusCode::kCancelled);
}

TEST(TokenStreamTest, FirstEndWinsAndNothingFollows) {
  TokenStream stream;
  stream.Close(absl::OkStatus());
  stream.Close(absl::InternalError("late"));
  EXPECT_FALSE(stream.Push(Text("late")));
  EXPECT_FALSE(stream.Pop().has_value());
  EXPECT_TRUE(stream.Finished()->ok());
}

TEST(TokenStreamTest, RoomEndsAtCapacityAndDeltasAreNeverDropped) {
  TokenStream stream(2);
  EXPECT_TRUE(stream.HasRoom());
  stream.Push(Text("1"));
  EXPECT_TRUE(stream.HasRoom());
  stream.Push(Text("2"));
  EXPECT_FALSE(stream.HasRoom());
  EXPECT_TRUE(stream.Push(Text("3")));
  stream.Pop();
  EXPECT_FALSE(stream.HasRoom());
  stream.Pop();
  EXPECT_TRUE(stream.HasRoom());
  EXPECT_EQ(absl::get<DeltaEvent>(*stream.Pop()).text, "3");
}

TEST(TokenStreamTest, ProgressIsReplacedAndDroppedWhenFull) {
  TokenStream stream(2);
  stream.Push(Progress(1));
  stream.Push(Progress(2));
  stream.Push(Text("a"));
  EXPECT_FALSE(stream.HasRoom());
  EXPECT_TRUE(stream.Push(Progress(3))) << "dropped, but the stream is open";
  EXPECT_EQ(absl::get<ProgressEvent>(*stream.Pop()).progress.done_tokens, 2);
  EXPECT_EQ(absl::get<DeltaEvent>(*stream.Pop()).text, "a");
  EXPECT_FALSE(stream.Pop().has_value());
}

TEST(TokenStreamTest, ReadyIsCalledOncePerTransition) {
  TokenStream stream;
  int calls = 0;
  stream.SetReadyCallback([&] { ++calls; });
  stream.Push(Text("1"));
  stream.Push(Text("2"));
  EXPECT_EQ(calls, 1);
  stream.Pop();
  stream.Pop();
  stream.Push(Text("3"));
  EXPECT_EQ(calls, 2);
  stream.Close(absl::OkStatus());
  EXPECT_EQ(calls, 2) << "there was something to take already";
}

TEST(TokenStreamTest, ReadyIsCalledForTheEndOfAnEmptyStream) {
  TokenStream stream;
  int calls = 0;
  stream.SetReadyCallback([&] { ++calls; });
  stream.Close(absl::OkStatus());
  stream.Close(absl::OkStatus());
  EXPECT_EQ(calls, 1);
}

TEST(TokenStreamTest, CallbackMayTakeEventsAndDetachItself) {
  TokenStream stream;
  std::string seen;
  stream.SetReadyCallback([&] {
    while (const auto event = stream.Pop()) seen += absl::get<DeltaEvent>(*event).text;
    if (seen == "ab") stream.SetReadyCallback(nullptr);
  });
  stream.Push(Text("a"));
  stream.Push(Text("b"));
  stream.Push(Text("c"));
  EXPECT_EQ(seen, "ab");
  EXPECT_EQ(absl::get<DeltaEvent>(*stream.Pop()).text, "c");
}

TEST(TokenStreamTest, RoomIsCalledWhenAFullStreamGetsRoom) {
  TokenStream stream(2);
  int calls = 0;
  stream.SetRoomCallback([&] { ++calls; });
  for (int i = 0; i < 3; ++i) stream.Push(Text("x"));
  stream.Pop();
  EXPECT_EQ(calls, 0) << "still full";
  stream.Pop();
  EXPECT_EQ(calls, 1);
  stream.Pop();
  EXPECT_EQ(calls, 1);
  stream.SetRoomCallback(nullptr);
  for (int i = 0; i < 2; ++i) stream.Push(Text("x"));
  stream.Pop();
  EXPECT_EQ(calls, 1);
}

TEST(TokenStreamTest, DetachWaitsForACallUnderWay) {
  TokenStream stream;
  Mutex mutex;
  bool entered = false, may_leave = false;
  std::atomic<bool> left{false};
  stream.SetReadyCallback([&] {
    MutexLock lock(&mutex);
    entered = true;
    mutex.NotifyAll();
    while (!may_leave) mutex.Wait();
    left = true;
  });
  std::thread pusher([&] { stream.Push(Text("x")); });
  {
    MutexLock lock(&mutex);
    while (!entered) mutex.Wait();
  }
  std::thread detacher([&] {
    stream.SetReadyCallback(nullptr);
    EXPECT_TRUE(left.load());
  });
  {
    MutexLock lock(&mutex);
    may_leave = true;
    mutex.NotifyAll();
  }
  detacher.join();
  pusher.join();
}

TEST(TokenStreamTest, WriterAndReaderOnTwoThreadsLoseNothing) {
  constexpr int kEvents = 20000;
  for (int round = 0; round < 4; ++round) {
    TokenStream stream(8);
    Mutex mutex;
    bool ready = false, room = false;
    stream.SetReadyCallback([&] {
      MutexLock lock(&mutex);
      ready = true;
      mutex.NotifyAll();
    });
    stream.SetRoomCallback([&] {
      MutexLock lock(&mutex);
      room = true;
      mutex.NotifyAll();
    });
    std::thread writer([&] {
      for (int i = 0; i < kEvents; ++i) {
        while (!stream.HasRoom()) {
          MutexLock lock(&mutex);
          // The reader may have made room before we came to wait.
          while (!room) mutex.Wait();
          room = false;
        }
        DeltaEvent delta;
        delta.token_ids.push_back(i);
        EXPECT_TRUE(stream.Push(std::move(delta)));
      }
      stream.SetRoomCallback(nullptr);
      stream.Close(absl::OkStatus());
    });
    int next = 0;
    while (!stream.Finished().has_value()) {
      const auto event = stream.Pop();
      if (event.has_value()) {
        ASSERT_EQ(absl::get<DeltaEvent>(*event).token_ids[0], next++);
        continue;
      }
      MutexLock lock(&mutex);
      while (!ready) mutex.Wait();
      ready = false;
    }
    EXPECT_EQ(next, kEvents);
    writer.join();
  }
}

}  // namespace
}  // namespace slim
