/** Version of @qspec/cli, put in by the build. */
declare const __QSPEC_VERSION__: string;
