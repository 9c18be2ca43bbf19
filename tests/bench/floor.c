/* The floor of an inventory by /proc: the reads alone, nothing parsed, nothing kept.
   Usage: floor; prints the number of processes. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char buffer[65536];

static void slurp(int directory, const char *name)
{
	int descriptor = openat(directory, name, O_RDONLY | O_CLOEXEC);

	if (descriptor >= 0) {
		while (read(descriptor, buffer, sizeof(buffer)) > 0)
			;
		close(descriptor);
	}
}

int main(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	struct stat status;
	int count = 0;

	while (proc && (entry = readdir(proc))) {
		int directory;

		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		directory = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (directory < 0)
			continue;
		slurp(directory, "stat");
		slurp(directory, "status");
		slurp(directory, "cmdline");
		if (readlinkat(directory, "exe", buffer, sizeof(buffer)) >= 0)
			fstatat(directory, "exe", &status, 0);
		close(directory);
		count++;
	}
	printf("%d\n", count);
	return 0;
}
