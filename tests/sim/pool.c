/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Jobs in processes of their own: several at a time, and one that panics or hangs takes only itself
 * along.
 */
#include "tests/sim/qemu.h"
#include "tests/sim/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_WORKERS 16

struct job_result *my_result;

struct worker {
    pid_t pid;
    unsigned job;
    double start;
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

struct job_result *jobs_results(unsigned count)
{
    void *p = mmap(NULL, count * sizeof(struct job_result), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

void jobs_forget(struct job_result *results, unsigned count)
{
    munmap(results, count * sizeof(*results));
}

static NORETURN void child(const struct job *job, struct job_result *r, unsigned seconds)
{
    my_result = r;
    sim_current = r->current;
    snprintf(sim_current, SIM_NAME_MAX, "%s", job->name);
    alarm(seconds);
    job->run(job);
    qemu_end();
    r->stats = stats;
    r->done = true;
    fflush(NULL);
    _exit(stats.failures != 0);
}

static void start(struct worker *w, const struct job *job, struct job_result *r, unsigned index,
                  unsigned seconds)
{
    fflush(NULL);
    w->job = index;
    w->start = now();
    w->pid = fork();
    if (w->pid < 0)
        abort();
    if (!w->pid)
        child(job, r, seconds);
}

/* One that did not come to its end is a failure like any other. */
static void died(struct job_result *r)
{
    r->stats.failures++;
    if (WIFSIGNALED(r->status))
        printf("FAILED %s: %s\n    replay    make sim SEED='%s'\n", r->current,
               WTERMSIG(r->status) == SIGALRM ? "did not end in time"
                                              : strsignal(WTERMSIG(r->status)),
               r->current);
    else
        printf("    replay    make sim SEED='%s'\n", r->current);
}

static void print_line(const struct job *job, const struct job_result *r)
{
    const struct stats *s = &r->stats;
    const char *found = s->failures || !r->done ? "found" : "MISSED";
    if (job->wanted) {
        printf("  %-6s %-18s %.1f s, by %s\n", found, job->name, r->seconds, r->current);
        fflush(stdout);
        return;
    }
    printf("  %-6s %-18s %6llu runs, %7llu crash points, %8llu states, %7llu distinct, %.1f s\n",
           s->failures ? "FAIL" : "ok", job->name, (unsigned long long)s->runs,
           (unsigned long long)s->points, (unsigned long long)s->states,
           (unsigned long long)s->distinct, r->seconds);
    fflush(stdout);
}

static void reap(struct worker *workers, unsigned n, const struct job *jobs,
                 struct job_result *results)
{
    int status;
    pid_t pid = wait(&status);
    for (unsigned i = 0; i < n; i++) {
        struct worker *w = &workers[i];
        if (w->pid != pid)
            continue;
        struct job_result *r = &results[w->job];
        r->status = status;
        r->seconds = now() - w->start;
        if (!r->done && !jobs[w->job].wanted)
            died(r);
        print_line(&jobs[w->job], r);
        w->pid = 0;
    }
}

void jobs_run(const struct job *jobs, struct job_result *results, unsigned count, unsigned workers,
              unsigned seconds)
{
    struct worker pool[MAX_WORKERS] = {{0}};
    unsigned next = 0, running = 0;
    workers = MIN(workers, (unsigned)MAX_WORKERS);
    while (next < count || running) {
        for (unsigned i = 0; i < workers && next < count; i++) {
            if (pool[i].pid)
                continue;
            start(&pool[i], &jobs[next], &results[next], next, seconds);
            next++;
            running++;
        }
        reap(pool, workers, jobs, results);
        running--;
    }
}
