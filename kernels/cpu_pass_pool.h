// A pool of threads of its own, so that the pass neither waits for torch's threads nor wakes them.
#pragma once

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu_pass.h"

namespace engine {

// Threads that share out numbered tasks. The caller works too, so n threads are n - 1 in the pool. Each has a Scratch.
class Pool {
public:
    explicit Pool(int threads) : scratch_(threads) {
        for (auto& scratch : scratch_) scratch = std::make_unique<Scratch>();
        try {
            for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
        } catch (const std::system_error&) {
            // The system has no more threads to give: those that started do the work.
        }
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            stop_ = true;
        }
        wake_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    int threads() const { return int(scratch_.size()); }

    // Call task(i, scratch) once for each i < count; returns when all are done. Throws what a task threw.
    template <class Task>
    void run(int count, const Task& task) {
        auto call = [](const void* object, int i, Scratch& scratch) {
            (*static_cast<const Task*>(object))(i, scratch);
        };
        {
            std::lock_guard<std::mutex> lock(mutex_);
            call_ = call, object_ = &task, count_ = count, next_ = 0, failed_ = false;
            active_ = int(workers_.size());
            round_++;
        }
        wake_.notify_all();
        work(*scratch_[0]);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return active_ == 0; });
        if (failed_) throw std::bad_alloc();
    }

private:
    void work(Scratch& scratch) {
        try {
            for (int i; (i = next_.fetch_add(1)) < count_;) call_(object_, i, scratch);
        } catch (const std::bad_alloc&) {  // the only thing a task throws
            failed_ = true;
            next_ = count_;
        }
    }

    void serve(int index) {
        uint64_t seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return stop_ || round_ != seen; });
                if (stop_) return;
                seen = round_;
            }
            work(*scratch_[index]);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::vector<std::unique_ptr<Scratch>> scratch_;
    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    void (*call_)(const void*, int, Scratch&) = nullptr;
    const void* object_ = nullptr;
    int count_ = 0, active_ = 0;
    uint64_t round_ = 0;
    std::atomic<int> next_{0};
    std::atomic<bool> failed_{false}, stop_{false};
};

}  // namespace engine
