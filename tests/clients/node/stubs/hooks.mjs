const STUBS = {
  'react-native': './react-native.mjs',
  '@react-native-async-storage/async-storage': './async-storage.mjs',
  '@react-native-clipboard/clipboard': './clipboard.mjs',
  'expo-application': './expo-application.mjs',
  'expo-clipboard': './expo-clipboard.mjs',
  'react-native-device-info': './device-info.mjs',
  'react-native-play-install-referrer': './install-referrer.mjs',
};

export async function resolve(specifier, context, next) {
  const stub = STUBS[specifier];
  return stub ? { url: new URL(stub, import.meta.url).href, shortCircuit: true } : next(specifier, context);
}
