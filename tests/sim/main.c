/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The simulator's command line.
 *
 *     sim              what `make test` runs: its own test, exhaustive and seeded runs
 *     sim short        a little of it (build/simasan: under ASan and UBSan)
 *     sim long SECS    more of both, until the time is over
 *     sim SUBJECT      everything about one of the subjects (subject.c)
 *     sim CASE         one case (run.h), with a trace hash
 *     sim mutants [NAME]   each deliberate defect of the core has to be found (build/mutants)
 *
 * SIM_WORKERS sets the number of processes (2); SIM_EVENTS=1 prints every event of one case;
 * SIM_LOUD=1 lets those speak whose failure is wanted.
 */
#include "kernel/mutant.h"
#include "tests/sim/qemu.h"
#include "tests/sim/run.h"
#include "tests/sim/toy.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define JOB_SECONDS 900

static unsigned workers(void)
{
    const char *text = getenv("SIM_WORKERS");
    return text ? (unsigned)atoi(text) : 2;
}

/* ---- the bench of this process ---- */

static struct bench bench;

static bool co_have_bench(const struct subject *s)
{
    if (bench.s == s)
        return true;
    if (bench.s)
        bench_free(&bench);
    verify_reset();
    const char *bad = co_bench_make(&bench, s);
    if (bad)
        sim_fail("%s\n%s", bad, sim_console());
    if (bad)
        bench.s = NULL;
    return !bad;
}

/* ---- jobs ---- */

static void co_exhaustive_job(void *arg)
{
    const struct job *j = arg;
    if (co_have_bench(j->subject))
        co_exhaustive(&bench, j->effort);
}

static void exhaustive_job(const struct job *j)
{
    sampling = (struct sampling){.reuse = 16, .check = 16, .qemu = 1000, .nested = 16};
    sim_boot(j->subject->roomy);
    sim_run(co_exhaustive_job, (void *)(uintptr_t)j);
}

static void co_random_job(void *arg)
{
    const struct job *j = arg;
    for (uint64_t n = j->from; n < j->to && stats.failures < 3; n++) {
        if (!co_have_bench(j->subject))
            return;
        verify_reset();
        co_random_case(&bench, n);
    }
}

static void random_job(const struct job *j)
{
    sampling = (struct sampling){.reuse = 16, .check = 16, .qemu = 2000, .nested = 32};
    sim_boot(j->subject->roomy);
    sim_run(co_random_job, (void *)(uintptr_t)j);
}

/* One defect after the other, each until it is found. */
static void co_find_job(void *arg)
{
    co_exhaustive_job(arg);
    if (!stats.failures)
        co_random_job(arg);
}

static void quiet(void)
{
    if (getenv("SIM_LOUD"))
        return;
    if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr))
        abort();
}

static void find_job(const struct job *j)
{
    quiet();
    sampling = (struct sampling){.reuse = 16};
    sim_boot(j->subject->roomy);
    sim_run(co_find_job, (void *)(uintptr_t)j);
}

/* ---- a suite ---- */

#define MAX_JOBS 4096
static struct job *jobs;
static unsigned njobs;

static struct job *add_job(void (*run)(const struct job *), const struct subject *s,
                           const char *what, uint64_t from, uint64_t to)
{
    if (!jobs)
        jobs = calloc(MAX_JOBS, sizeof(*jobs));
    if (!jobs || njobs == MAX_JOBS)
        abort();
    struct job *j = &jobs[njobs++];
    *j = (struct job){.run = run, .subject = s, .from = from, .to = to};
    j->effort = EFFORT_TEST;
    snprintf(j->name, sizeof(j->name), "%s%s", s->name, what);
    return j;
}

static bool is_good(const struct job *j, const struct job_result *r)
{
    bool failed = r->stats.failures || !r->done;
    if (j->wanted && !failed)
        printf("FAILED %s: %s\n", j->name,
               j->mutant && !r->reached ? "no scenario has reached it" : "it was not found");
    return failed == j->wanted;
}

/* Those whose failure is wanted count nothing but themselves. */
static void run_jobs(struct stats *all, unsigned *passed, unsigned *failed)
{
    struct job_result *results = jobs_results(njobs);
    jobs_run(jobs, results, njobs, workers(), JOB_SECONDS);
    for (unsigned i = 0; i < njobs; i++) {
        bool good = is_good(&jobs[i], &results[i]);
        *passed += good;
        *failed += !good;
        if (!jobs[i].wanted)
            stats_add(all, &results[i].stats);
    }
    jobs_forget(results, njobs);
}

static int print_sum(const char *name, const struct stats *s, unsigned passed, unsigned failed)
{
    const struct {
        const char *what;
        uint64_t n;
    } rest[] = {{"with leaks", s->leaky},
                {"repaired by opening", s->repaired},
                {"crashed again while repaired", s->nested},
                {"written to again", s->reused},
                {"checked and repaired", s->checked},
                {"seen by qemu-img", s->qemu}};
    printf("%s: %llu runs with %llu faults; %llu crash points, %llu crash states (%llu distinct), "
           "%llu bad; of these",
           name, (unsigned long long)s->runs, (unsigned long long)s->faults,
           (unsigned long long)s->points, (unsigned long long)s->states,
           (unsigned long long)s->distinct, (unsigned long long)s->failures);
    for (unsigned i = 0; i < ARRAY_LEN(rest); i++)
        printf("%s %llu %s", i ? "," : "", (unsigned long long)rest[i].n, rest[i].what);
    printf("\n%u passed, %u failed\n", passed, failed);
    return failed != 0;
}

static int run_suite(const char *name)
{
    struct stats all = {0};
    unsigned passed = 0, failed = 0;
    run_jobs(&all, &passed, &failed);
    return print_sum(name, &all, passed, failed);
}

static void add_self_test(void)
{
    for (unsigned d = TOY_none + 1; d < TOY_COUNT; d++)
        add_job(find_job, toy_subject((enum toy_defect)d), "", 0, 5000)->wanted = true;
    add_job(exhaustive_job, toy_subject(TOY_none), "", 0, 0);
    add_job(random_job, toy_subject(TOY_none), ":0..99", 0, 100);
}

static int test(void)
{
    add_self_test();
    for (unsigned i = 0; i < nsubjects; i++) {
        add_job(exhaustive_job, &subjects[i], "", 0, 0);
        add_job(random_job, &subjects[i], ":0..199", 0, 200);
    }
    return run_suite("sim");
}

static const struct subject *any_subject(const char *name, size_t len)
{
    for (unsigned d = 0; d < TOY_COUNT; d++) {
        const struct subject *s = toy_subject((enum toy_defect)d);
        if (strlen(s->name) == len && !memcmp(s->name, name, len))
            return s;
    }
    return subject_find(name, len);
}

/* All of one subject. */
static int one_subject(const struct subject *s)
{
    add_job(exhaustive_job, s, "", 0, 0);
    add_job(random_job, s, ":0..499", 0, 500);
    add_job(random_job, s, ":500..999", 500, 1000);
    return run_suite(s->name);
}

/* For a build that is slow: the sanitizers look on. */
static int run_short(void)
{
    for (unsigned i = 0; i < nsubjects; i++) {
        add_job(exhaustive_job, &subjects[i], "", 0, 0)->effort = EFFORT_SHORT;
        add_job(random_job, &subjects[i], ":0..11", 0, 12);
    }
    return run_suite("sim-short");
}

/* ---- for as long as one likes ---- */

/* Each exhaustively once, then seeds that no earlier run has had. */
static int run_long(unsigned seconds)
{
    time_t end = time(NULL) + seconds;
    struct stats all = {0};
    unsigned passed = 0, failed = 0;
    for (unsigned round = 0; time(NULL) < end; round++) {
        njobs = 0;
        for (unsigned i = 0; i < nsubjects; i++) {
            uint64_t from = 1000000ull * round;
            if (!round)
                add_job(exhaustive_job, &subjects[i], "", 0, 0)->effort = EFFORT_LONG;
            else
                add_job(random_job, &subjects[i], ":long", from, from + 2000);
        }
        run_jobs(&all, &passed, &failed);
    }
    return print_sum("sim-long", &all, passed, failed);
}

/* ---- one case ---- */

static const char *case_text;

static const struct subject *case_subject(void)
{
    const char *colon = strchr(case_text, ':');
    return colon ? any_subject(case_text, (size_t)(colon - case_text)) : NULL;
}

static void co_case(void *arg)
{
    const char *colon = strchr(case_text, ':');
    const struct subject *s = case_subject();
    (void)arg;
    if (!s) {
        printf("no such case: %s\n", case_text);
        stats.failures++;
        return;
    }
    if (!co_have_bench(s))
        return;
    if (!strcmp(colon + 1, "create"))
        co_create_case(&bench);
    else if (colon[1] >= '0' && colon[1] <= '9')
        co_random_case(&bench, strtoull(colon + 1, NULL, 10));
    else if (!co_exhaustive_case(&bench, colon + 1))
        stats.failures += !stats.failures;
}

static int one_case(const char *text)
{
    case_text = text;
    snprintf(sim_current, SIM_NAME_MAX, "%s", text);
    sampling = (struct sampling){.reuse = 4, .check = 4, .qemu = 50, .nested = 1};
    sim_boot(case_subject() && case_subject()->roomy);
    sim_run(co_case, NULL);
    qemu_end();
    if (getenv("SIM_EVENTS"))
        record_print(&the_record);
    printf("%s: %llu operations, %llu crash points, %llu states, %llu distinct, trace %016llx: "
           "%s\n",
           text, (unsigned long long)stats.operations, (unsigned long long)stats.points,
           (unsigned long long)stats.states, (unsigned long long)stats.distinct,
           (unsigned long long)the_record.trace, stats.failures ? "FAILED" : "good");
    return stats.failures != 0;
}

/* ---- mutants ---- */

#ifdef SR_MUTANTS
enum mutant mutant_chosen;
unsigned mutant_reached;

static const char *const mutant_names[] = {"none",
#define MUTANT_NAME(name) #name,
                                           MUTANTS(MUTANT_NAME)
#undef MUTANT_NAME
};

/* Where a defect shows soonest; "v3" is the default. Seeded: sequences of three do not show it. */
static const struct hint {
    enum mutant mutant;
    const char *subject;
    bool seeded;
} hints[] = {
    {MUTANT_COMMIT_OPEN, "v3", true},         {MUTANT_FREE_NO_FLUSH, "v3", true},
    {MUTANT_FREE_NO_GRACE, "v3", true},       {MUTANT_TABLE_UNWRITTEN, "v3-fresh", false},
    {MUTANT_REFBLOCK_NO_FLUSH, "wide", true}, {MUTANT_REFTABLE_NO_FLUSH, "table", true},
    {MUTANT_DIRTY_BIT_LATE, "lazy", false},   {MUTANT_DIRTY_BIT_EARLY, "lazy", false},
    {MUTANT_SETTLE_EARLY, "safe", false},     {MUTANT_ZERO_STALE, "v3", false},
};

static struct hint hint_for(enum mutant m)
{
    for (unsigned i = 0; i < ARRAY_LEN(hints); i++)
        if (hints[i].mutant == m)
            return hints[i];
    return (struct hint){m, "v3", false};
}

/* The image is made before the defect is. */
static void co_mutant_job(void *arg)
{
    const struct job *j = arg;
    struct hint h = hint_for((enum mutant)j->mutant);
    if (!co_have_bench(j->subject))
        return;
    mutant_chosen = h.mutant;
    if (!h.seeded)
        co_exhaustive_job(arg);
    if (!stats.failures)
        co_random_job(arg);
    my_result->reached = mutant_reached;
}

static void mutant_job(const struct job *j)
{
    quiet();
    sampling = (struct sampling){.reuse = 16, .nested = 16};
    sim_boot(j->subject->roomy);
    sim_run(co_mutant_job, (void *)(uintptr_t)j);
}

static int mutants(const char *only)
{
    for (int m = 1; m < MUTANT_COUNT; m++) {
        if (only && strcmp(only, mutant_names[m]))
            continue;
        const char *name = hint_for((enum mutant)m).subject;
        struct job *j = add_job(mutant_job, subject_find(name, strlen(name)), "", 0, 3000);
        snprintf(j->name, sizeof(j->name), "%s", mutant_names[m]);
        j->mutant = m;
        j->wanted = true;
    }
    struct stats all = {0};
    unsigned found = 0, missed = 0;
    run_jobs(&all, &found, &missed);
    printf("mutants: %u of %u found\n%u passed, %u failed\n", found, found + missed, found, missed);
    return missed != 0;
}
#endif

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 1)
        return test();
    if (!strcmp(argv[1], "short"))
        return run_short();
    if (argc == 3 && !strcmp(argv[1], "long"))
        return run_long((unsigned)atoi(argv[2]));
#ifdef SR_MUTANTS
    if (!strcmp(argv[1], "mutants"))
        return mutants(argv[2]);
#endif
    if (any_subject(argv[1], strlen(argv[1])))
        return one_subject(any_subject(argv[1], strlen(argv[1])));
    return one_case(argv[1]);
}
