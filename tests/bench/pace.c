/* Starts PROGRAM so many times a second for so many seconds, evenly, and waits for each: `pace RATE SECONDS
 * PROGRAM`. Prints how many it started and how many nanoseconds that took. */
#define _GNU_SOURCE
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments)
{
	if (count != 4)
		return 2;
	long rate = atol(arguments[1]);
	long number = rate * atol(arguments[2]);
	long long began = now();

	for (long i = 0; i < number; i++) {
		long long due = began + i * 1000000000LL / rate;
		struct timespec until = { due / 1000000000LL, due % 1000000000LL };
		char tag[32];
		char *child_arguments[] = { arguments[3], tag, NULL };
		pid_t child;

		snprintf(tag, sizeof(tag), "tag%ld", i);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		if (posix_spawn(&child, arguments[3], NULL, NULL, child_arguments, environ))
			return 1;
		waitpid(child, NULL, 0);
	}
	printf("%ld %lld\n", number, now() - began);
	return 0;
}
